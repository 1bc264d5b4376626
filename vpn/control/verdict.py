"""The verdict on a packet: the kernel's route first, and then the tunnel's decision. Pure.

The order is that of the packet's path: the kernel routes it to the tunnel's device or not; the gate
answers it or asks the client; the client applies its rules and opens a flow in its session.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal

import msgspec

from dns.codes import PORT
from shim.protocol import DEVICE, LAN, ROUTE_PROTOCOL
from vpn.control.messages import DestinationStatus, Resolution
from vpn.endpoint import join_host_port
from vpn.linux.routing import Route, Rule
from vpn.policy.rules import DEFAULT

VerdictKind = Literal[
    "tunnel",
    "loopback",
    "resolver",
    "direct",
    "local",
    "refused",
    "unreachable",
    "blocked",
    "dropped",
    "nonexistent",
    "unknown",
]


class RuleText(msgspec.Struct, frozen=True):
    """A routing rule; `is_ours` if the tunnel has added it."""

    priority: int
    is_ours: bool
    text: str


class RouteText(msgspec.Struct, frozen=True, kw_only=True):
    """The route that the kernel chooses; `rule` is None where the rule cannot be told."""

    table: int
    kind: str
    prefix: str
    device: str
    gateway: str
    source: str
    rule: RuleText | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a packet to an address. `route` is None if the kernel has none."""

    address: str
    verdict: VerdictKind
    why: str
    route: RouteText | None = None
    outer: RouteText | None = None
    """The route of the tunnel's own packets, if the address is that of its server."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What `overlay-vpn route get --json` prints."""

    schema: int = 1
    host: str
    port: int
    name: str
    """The host if it is a name, or the name of a virtual address."""
    way: Resolution | None
    """How a query for the name is answered."""
    is_assigned: bool
    """Whether the virtual addresses are assigned to the name."""
    server: str
    carries_udp: bool
    """Whether the server carries UDP and ICMP echo; if not, they fail at once."""
    verdicts: tuple[Verdict, ...]
    """One for each address; a single one without an address if the name has none."""


def route_text(route: Route, rule: Rule | None) -> RouteText:
    """Return a route and the rule that chose it as text."""
    found = (
        None if rule is None else RuleText(rule.priority, rule.origin == ROUTE_PROTOCOL, str(rule))
    )
    return RouteText(
        table=route.table,
        kind=route.kind,
        prefix=str(route.prefix),
        device=route.device,
        gateway=route.gateway,
        source=route.source,
        rule=found,
    )


def judge(
    address: str, port: int, status: DestinationStatus, found: RouteText | str
) -> tuple[VerdictKind, str]:
    """Return the verdict on a packet. `found` is its route, or why the kernel has none."""
    if isinstance(found, str):
        if status.kill_switch and not status.paused_s:
            return "blocked", f"the kill switch holds: {found}"
        return "unreachable", f"the kernel says: {found}"
    if found.kind == "local":
        return "local", "an address of this machine"
    where = ip_address(address)
    if found.device != DEVICE:
        return _outside(where, status, found)
    if where.is_multicast or found.kind in ("broadcast", "multicast"):
        return "dropped", "what is for more than one host does not go through the tunnel"
    if port == PORT:
        return "resolver", "port 53 of every address is answered by the tunnel's resolver"
    return inside(port, status)


def inside(port: int, status: DestinationStatus) -> tuple[VerdictKind, str]:
    """Return the verdict on a packet that the kernel routes to the tunnel's device."""
    if status.is_pool and not status.name:
        return "refused", "a virtual address that stands for no name"
    match status.obstacle:
        case "rule":
            return "refused", _by_rule(status.rule, status.rule_number)
        case "reserved":
            return "refused", "a name of the server's own services"
        case "loopback":
            return "refused", "an address of the tunnel itself, where nobody listens"
        case "session":
            when = f"in {status.retry_in_s} s" if status.retry_in_s else "now"
            return "unreachable", f"no session ({status.last_error}); next try {when}"
        case "service":
            return "unreachable", f"{status.server} carries connections, and no ping"
    if status.exit == "loopback":
        return "loopback", f"port {status.place_port or port} of this machine's loopback"
    place = f" as {join_host_port(status.place, status.place_port or port)}" if status.place else ""
    return "tunnel", f"it leaves at {status.server}{place}"


def nameless(status: DestinationStatus) -> tuple[VerdictKind, str]:
    """Return the verdict on a packet to a name without an address."""
    way = status.way
    if way is None or way.way in ("outside", "forwarded"):
        return "unknown", "the resolver of this machine gives it no address"
    if way.way == "refused":
        return "refused", _by_rule(way.rule, way.rule_number)
    if way.way == "special":
        return "nonexistent", "a special-use name that means no place"
    match status.outcome:
        case "nx_domain":
            return "nonexistent", "the far end says that there is no such name"
        case "no_data":
            return "nonexistent", "the far end says that it has no address"
        case "unreachable":
            return "unreachable", f"the far end cannot be asked now ({status.last_error})"
        case "found":
            return "unknown", "no virtual address is free, or the gate does not answer"
    return "unknown", f"the far end has not answered ({status.outcome})"


def resolution_text(way: Resolution) -> str:
    """Return how a query is answered, in words."""
    asked = "the server's resolver" if way.asked == "server" else way.asked
    match way.way:
        case "static":
            return "a name that was given an address (--host)"
        case "far":
            away = ", which cannot be reached now" if way.is_away else ""
            return f"asked of {asked}, at the far end{away}"
        case "cached":
            return f"said by {asked} {way.age_s} s ago, kept for another {way.left_s} s"
        case "forwarded":
            return "not one of the tunnel's: asked of the resolver of this machine, beside it"
        case "outside":
            return "not answered by the tunnel now: asked of the resolver of this machine"
        case "special":
            return "special-use (RFC 6761): it means the same everywhere, or nothing"
        case "refused":
            return f"not answered: {_by_rule(way.rule, way.rule_number)}"
        case "virtual":
            return "answered here: nobody is asked"


def _outside(
    where: IPv4Address | IPv6Address, status: DestinationStatus, found: RouteText
) -> tuple[VerdictKind, str]:
    if not status.server and not status.kill_switch:
        return "direct", "overlay-vpn is not up here"
    if status.paused_s:
        return "direct", f"the tunnel is paused for another {status.paused_s} s"
    version: Literal[4, 6] = 4 if where.version == 4 else 6
    if status.kill_switch:
        if status.lan and any(where in ip_network(prefix) for prefix in LAN[version]):
            return "direct", "the local network is reachable beside the kill switch"
        return "blocked", "the kill switch lets nothing past the tunnel"
    if found.rule is not None and found.rule.is_ours:
        return "direct", "this machine has a route for it that is no default route"
    return "direct", "not among what is routed through the tunnel"


def _by_rule(rule: str, number: int) -> str:
    if number:
        return f"rule {number} forbids it: {rule}"
    return "no rule allows it" if rule == DEFAULT else rule
