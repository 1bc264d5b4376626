"""Routes that users write: each form is read, and each mistake is named."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from vpn.config.routes import Routes, parse_routes
from vpn.errors import UsageError


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
