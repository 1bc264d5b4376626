"""Which rule has led to a route: the rules of `up`, and those of others between them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from shim.monitor import plan
from shim.monitor.plan import changes
from shim.protocol import MARK, ROUTE_PROTOCOL
from shim.protocol.monitor import Capture
from vpn.linux.routing import Packet, Prefix, Route, Rule, rule_of

MAIN, OURS = 254, plan.TABLE
SYSTEM = [
    Rule(priority=0, table=255),
    Rule(priority=32766, table=MAIN),
    Rule(priority=32767, table=253),
]


def prefix(text: str) -> Prefix | None:
    if not text:
        return None
    network = ip_network(text)
    return Prefix(str(network.network_address), network.prefixlen)


def known(one: plan.Rule) -> Rule:
    """A rule of the plan as the kernel lists it."""
    return Rule(
        priority=one.priority,
        table=one.table,
        goto=one.goto,
        is_nothing=not one.goto and not one.table,
        origin=ROUTE_PROTOCOL,
        source=prefix(one.source),
        destination=prefix(one.destination),
        mark=one.mark,
        mark_mask=0xFFFFFFFF if one.mark else 0,
        incoming=one.incoming,
        protocol=one.protocol,
        ports=range(one.port, one.port + 1) if one.port else range(0),
        suppresses=0 if one.without_default else -1,
        is_unclear=bool(one.source_port),
    )


def rules_of(capture: Capture, family: int, *more: Rule) -> list[Rule]:
    ours = [one for one in changes(capture) if isinstance(one, plan.Rule) and one.family == family]
    return sorted([*map(known, ours), *SYSTEM, *more], key=lambda rule: rule.priority)


def route(table: int, bits: int = 0) -> Route:
    where = Prefix("0.0.0.0", bits)
    return Route(kind="unicast", table=table, prefix=where, device="", gateway="", source="")


def priority(rules: list[Rule], packet: Packet, found: Route) -> int | None:
    rule = rule_of(rules, packet, found)
    return None if rule is None else rule.priority


EVERYTHING = Capture(True, True, ())


@pytest.mark.parametrize(
    ("family", "other", "virtual"),
    [(4, "203.0.113.9", "198.18.0.99"), (6, "2001:db8::9", "fd6f:7670:6e00::99")],
)
def test_rule_of_everything(family: int, other: str, virtual: str) -> None:
    rules = rules_of(EVERYTHING, family)
    assert priority(rules, Packet(other), route(OURS)) == plan.CAPTURE + 3
    assert priority(rules, Packet(other, 53), route(OURS)) == plan.FIRST + 1
    assert priority(rules, Packet(virtual, 80), route(OURS)) == plan.FIRST + 2
    assert priority(rules, Packet(other, 80), route(MAIN, 24)) == plan.CAPTURE + 2
    assert priority(rules, Packet(other, 80, MARK), route(MAIN)) == 32766
    assert priority(rules, Packet(other), route(255, 32)) == 0


def test_rule_that_leaves_out_a_default_route_is_not_the_one() -> None:
    rules = rules_of(EVERYTHING, 4)
    assert priority(rules, Packet("203.0.113.9"), route(MAIN, 0)) == 32766


def test_rule_of_somebody_else_is_found() -> None:
    more = Rule(priority=100, table=77, destination=Prefix("203.0.113.0", 24))
    rules = rules_of(EVERYTHING, 4, more)
    assert priority(rules, Packet("203.0.113.9"), route(77)) == 100
    assert priority(rules, Packet("198.51.100.9"), route(77)) is None


def test_where_a_rule_asks_for_what_is_not_known_none_is_named() -> None:
    rules = rules_of(EVERYTHING, 4, Rule(priority=100, table=MAIN, is_unclear=True))
    assert rule_of(rules, Packet("192.0.2.1"), route(MAIN, 24)) is None


def test_rule_is_shown_by_what_it_is_about() -> None:
    shown = {str(rule) for rule in rules_of(EVERYTHING, 4)}
    assert {"port 53", "to 198.18.0.0/15", "anything but a default route"} <= shown
