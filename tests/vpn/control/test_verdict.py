"""What becomes of a packet: the kernel first, then the gate, the rules, the session."""

from __future__ import annotations

import msgspec
import pytest

from shim.protocol import DEVICE, ROUTE_PROTOCOL
from vpn.control.messages import DestinationStatus, Resolution
from vpn.control.verdict import (
    RouteText,
    RuleText,
    VerdictKind,
    inside,
    judge,
    nameless,
    resolution_text,
    route_text,
)
from vpn.linux.routing import Prefix, Route, Rule

OURS, OTHER = RuleText(7213, True, "anything"), RuleText(32766, False, "anything")


def route(device: str = DEVICE, kind: str = "unicast", rule: RuleText | None = OURS) -> RouteText:
    return RouteText(
        table=7200, kind=kind, prefix="default", device=device, gateway="", source="", rule=rule
    )


UP = DestinationStatus(server="alice@vpn.example (quic)")
PAUSED = DestinationStatus(server="alice@vpn.example (quic)", kill_switch=True, paused_s=9)
SWITCHED = DestinationStatus(server="alice@vpn.example (quic)", kill_switch=True)


@pytest.mark.parametrize(
    ("address", "port", "status", "found", "word"),
    [
        ("203.0.113.1", 80, UP, route(), "tunnel"),
        ("203.0.113.1", 53, UP, route(), "resolver"),
        ("203.0.113.1", 80, UP, route("eth0", rule=OTHER), "direct"),
        ("127.0.0.1", 53, UP, route("lo", "local"), "local"),
        ("224.0.0.1", 80, UP, route(kind="multicast"), "dropped"),
        ("ff02::1", 80, UP, route(), "dropped"),
        ("203.0.113.1", 80, UP, "Network is unreachable", "unreachable"),
        ("203.0.113.1", 80, SWITCHED, "No route to host", "blocked"),
        ("203.0.113.1", 80, SWITCHED, route("eth0", rule=OTHER), "blocked"),
        ("10.0.0.1", 80, SWITCHED, route("eth0"), "direct"),
        ("fd00::1", 80, SWITCHED, route("eth0"), "direct"),
        ("203.0.113.1", 80, DestinationStatus(), route("eth0", rule=OTHER), "direct"),
    ],
)
def test_kernel_has_the_first_word(
    address: str, port: int, status: DestinationStatus, found: RouteText | str, word: VerdictKind
) -> None:
    assert judge(address, port, status, found)[0] == word


@pytest.mark.parametrize(
    ("status", "found", "why"),
    [
        (DestinationStatus(), route("eth0"), "overlay-vpn is not up here"),
        (UP, route("eth0", rule=OTHER), "not among what is routed through the tunnel"),
        (UP, route("eth0", rule=None), "not among what is routed through the tunnel"),
        (UP, route("eth0"), "this machine has a route for it that is no default route"),
        (
            DestinationStatus(kill_switch=True),
            route("eth0"),
            "the local network is reachable beside the kill switch",
        ),
    ],
)
def test_packet_outside_the_tunnel_has_a_reason(
    status: DestinationStatus, found: RouteText, why: str
) -> None:
    assert judge("10.0.0.1", 80, status, found) == ("direct", why)


def test_kill_switch_that_was_left_blocks_the_rest() -> None:
    status = DestinationStatus(kill_switch=True)
    blocked = ("blocked", "the kill switch lets nothing past the tunnel")
    assert judge("203.0.113.1", 80, status, route("eth0", rule=OTHER)) == blocked


def test_kernel_without_a_route_is_quoted_whoever_is_at_fault() -> None:
    found = "No route to host"
    for status, verdict in {
        UP: ("unreachable", "the kernel says: No route to host"),
        SWITCHED: ("blocked", "the kill switch holds: No route to host"),
        PAUSED: ("unreachable", "the kernel says: No route to host"),
    }.items():
        assert judge("203.0.113.1", 80, status, found) == verdict


def test_route_and_its_rule_are_told_as_text() -> None:
    prefix = Prefix("198.18.0.0", 15)
    chosen = Route(
        kind="unicast", table=7200, prefix=prefix, device=DEVICE, gateway="", source="198.18.0.2"
    )
    unruled = route_text(chosen, None)
    assert unruled == RouteText(
        table=7200,
        kind="unicast",
        prefix="198.18.0.0/15",
        device=DEVICE,
        gateway="",
        source="198.18.0.2",
        rule=None,
    )
    for origin, is_ours in ((ROUTE_PROTOCOL, True), (2, False)):
        rule = Rule(priority=7202, table=7200, origin=origin, destination=prefix)
        told = RuleText(7202, is_ours, str(rule))
        assert route_text(chosen, rule) == msgspec.structs.replace(unruled, rule=told)


def test_local_network_is_blocked_where_that_was_asked_for() -> None:
    status = DestinationStatus(server="s", kill_switch=True, lan=False)
    assert judge("10.0.0.1", 80, status, route("eth0"))[0] == "blocked"


def test_kill_switch_is_open_while_it_is_paused() -> None:
    status = DestinationStatus(server="s", kill_switch=True, paused_s=9)
    assert judge("203.0.113.1", 80, status, route("eth0")) == (
        "direct",
        "the tunnel is paused for another 9 s",
    )


@pytest.mark.parametrize(
    ("status", "word", "why"),
    [
        (DestinationStatus(is_pool=True), "refused", "stands for no name"),
        (DestinationStatus(is_pool=True, name="a.b", server="s"), "tunnel", "leaves at s"),
        (
            DestinationStatus(obstacle="rule", rule="a.b:1", rule_number=2),
            "refused",
            "rule 2 forbids it: a.b:1",
        ),
        (DestinationStatus(obstacle="rule", rule="default"), "refused", "no rule allows it"),
        (
            DestinationStatus(obstacle="rule", rule="not a destination"),
            "refused",
            "not a destination",
        ),
        (DestinationStatus(exit="loopback", obstacle="loopback"), "refused", "nobody listens"),
        (DestinationStatus(obstacle="reserved"), "refused", "server's own services"),
        (DestinationStatus(exit="loopback"), "loopback", "port 80"),
        (
            DestinationStatus(obstacle="session", last_error="x", retry_in_s=3),
            "unreachable",
            "try in 3 s",
        ),
        (DestinationStatus(obstacle="session", last_error="x"), "unreachable", "(x); next try now"),
        (
            DestinationStatus(server="s", place="10.0.0.5", place_port=1),
            "tunnel",
            "s as 10.0.0.5:1",
        ),
        (DestinationStatus(server="s", place="10.0.0.5"), "tunnel", "s as 10.0.0.5:80"),
    ],
)
def test_in_the_tunnel_the_first_reason_counts(
    status: DestinationStatus, word: VerdictKind, why: str
) -> None:
    got, said = inside(80, status)
    assert got == word
    assert why in said


def test_ping_goes_where_it_is_carried() -> None:
    assert inside(0, DestinationStatus(server="s"))[0] == "tunnel"
    assert inside(0, DestinationStatus(server="s", obstacle="service")) == (
        "unreachable",
        "s carries connections, and no ping",
    )


@pytest.mark.parametrize(
    ("way", "outcome", "word"),
    [
        (Resolution(way="refused", rule="default"), "", "refused"),
        (Resolution(way="special"), "", "nonexistent"),
        (Resolution(way="forwarded"), "", "unknown"),
        (Resolution(way="outside"), "", "unknown"),
        (Resolution(way="far"), "nx_domain", "nonexistent"),
        (Resolution(way="cached"), "no_data", "nonexistent"),
        (Resolution(way="far"), "unreachable", "unreachable"),
        (Resolution(way="far"), "failed", "unknown"),
        (Resolution(way="virtual"), "found", "unknown"),
    ],
)
def test_name_without_an_address_has_a_reason(
    way: Resolution, outcome: str, word: VerdictKind
) -> None:
    got, why = nameless(DestinationStatus(way=way, outcome=outcome))
    assert got == word
    assert why
    assert resolution_text(way)


def test_who_was_asked_and_when_is_said() -> None:
    assert "192.0.2.53 3 s ago, kept for another 7 s" in resolution_text(
        Resolution(way="cached", asked="192.0.2.53", age_s=3, left_s=7)
    )
    assert "cannot be reached" in resolution_text(
        Resolution(way="far", asked="server", is_away=True)
    )
