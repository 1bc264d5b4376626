"""What users write: each form is read, and each mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.config.target import QUIC_PORT, Target, parse_listen, parse_target
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


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("[::]:4433", "::", 4433),
        ("[::]", "::", QUIC_PORT),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("host.example", "host.example", QUIC_PORT),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
    ],
)
def test_address_to_listen_on_is_read(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a host"),
        ("::1", "an IPv6 address needs brackets"),
        ("a b", "'a b' is not a host"),
        ("host:0", "'0' is not a port"),
    ],
)
def test_mistake_in_an_address_to_listen_on_is_named(text: str, why: str) -> None:
    with pytest.raises(UsageError) as failed:
        parse_listen(text)
    assert str(failed.value) == (
        f"cannot listen on {text!r}: {why}; write an address as 192.0.2.1:4422"
    )
