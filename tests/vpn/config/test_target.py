"""What users write: each form is read, and each mistake is named."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.config.target import QUIC_PORT, Routes, Target, parse_routes, parse_target
from vpn.endpoint import SSH_PORT
from vpn.errors import UsageError
from vpn.transport.base import Address


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("alice@host:99", Target("quic", "alice", Address("host", 99))),
        ("alice@host", Target("quic", "alice", Address("host", QUIC_PORT))),
        ("host", Target("quic", "", Address("host", QUIC_PORT))),
        ("quic://alice@host", Target("quic", "alice", Address("host", QUIC_PORT))),
        ("ssh://alice@host", Target("tcp", "alice", Address("host", SSH_PORT))),
        ("ssh://host:2222", Target("tcp", "", Address("host", 2222))),
        ("alice@192.0.2.1:99", Target("quic", "alice", Address("192.0.2.1", 99))),
        ("alice@[2001:db8::1]:99", Target("quic", "alice", Address("2001:db8::1", 99))),
        ("ssh://alice@[2001:db8::1]", Target("tcp", "alice", Address("2001:db8::1", SSH_PORT))),
        ("a@b@host", Target("quic", "a@b", Address("host", QUIC_PORT))),
        ("host.example.", Target("quic", "", Address("host.example.", QUIC_PORT))),
    ],
)
def test_target_is_read(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a host"),
        ("@host", "the user is empty"),
        ("alice@", "not a host"),
        ("alice@host:", "not a port"),
        ("alice@host:0", "not a port"),
        ("alice@host:65536", "not a port"),
        ("alice@host:\u0661", "not a port"),
        ("alice@host:-1", "not a port"),
        ("alice@host:" + "9" * 5000, "not a port"),
        ("alice@2001:db8::1", "needs brackets"),
        ("alice@[2001:db8::1", "brackets do not match"),
        ("alice@[2001:db8::1]99", "brackets do not match"),
        ("http://host", "no scheme 'http'"),
        ("alice@ho st", "not a host"),
        ("alice@-oProxyCommand=x", "not a host"),
        ("alice@" + "h" * 300, "not a host"),
    ],
)
def test_mistake_in_a_target_is_named(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_target(text)


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        target = parse_target(text)
    except UsageError:
        return
    assert 0 < target.address.port < 65536
    assert target.address.host


def test_no_route_is_everything() -> None:
    assert parse_routes(()) == Routes(True, (), ())


def test_both_default_routes_are_everything() -> None:
    assert parse_routes(("0.0.0.0/0", "::/0")).everything


def test_one_default_route_is_a_prefix() -> None:
    assert parse_routes(("0.0.0.0/0",)) == Routes(False, (ip_network("0.0.0.0/0"),), ())


def test_prefixes_and_names_are_told_apart() -> None:
    routes = parse_routes(("10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "corp.example", "*.Lab."))
    assert routes.prefixes == tuple(
        ip_network(net) for net in ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")
    )
    assert routes.suffixes == ("corp.example", "lab")


def test_route_that_is_said_twice_is_one() -> None:
    """The kernel would refuse the second rule."""
    routes = parse_routes(("10.0.0.0/8", "corp.example", "10.0.0.0/8", "*.corp.example"))
    assert routes == Routes(False, (ip_network("10.0.0.0/8"),), ("corp.example",))


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0.0/33", "corp..example", "a b", "ho/st", "x" * 64, "-", "*", ""]
)
def test_mistake_in_a_route_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the route"):
        parse_routes((text,))


@pytest.mark.parametrize("form", ["192.0.{}.{}", "host{}-{}.example"])
def test_more_routes_than_the_shim_takes_are_refused_by_us(form: str) -> None:
    with pytest.raises(UsageError, match="too many"):
        parse_routes(tuple(form.format(*divmod(number, 256)) for number in range(600)))


@pytest.mark.parametrize(
    ("routes", "hosts", "names"),
    [
        ((), (), ()),
        ((), ("printer",), ()),
        (("10.0.0.0/8",), (), None),
        (("10.0.0.0/8",), ("printer",), ("printer",)),
        (("corp.example",), ("printer",), ("corp.example", "printer")),
        (("0.0.0.0/0", "::/0", "corp.example"), (), ("corp.example",)),
    ],
)
def test_names_of_the_tunnel(
    routes: tuple[str, ...], hosts: tuple[str, ...], names: tuple[str, ...] | None
) -> None:
    assert parse_routes(routes).names(hosts) == names
