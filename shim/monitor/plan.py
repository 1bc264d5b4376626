"""The plan of a capture: the changes of the network in their order, as data. Pure.

Theory of operation
-------------------
One routing table of our own holds a default route into the capture TUN, for both families. Rules
decide what looks into it, and all of them lie between `FIRST` and `END`, so that the machine's own
policy before and after stays what it was:

    FIRST     marked packets (our outer sockets)          skip the rest
    +1        port 53, UDP and TCP, to any address        our table     (with names)
    +2        the pools of virtual addresses              our table
    +3        the TUN's own source address                our table
    +3        no source address yet                       go on at CAPTURE
    +4        another source address, from this machine   skip the rest
    CAPTURE   nothing: where going on begins
    +1        the chosen prefixes                         our table
    +2        a route in main that is not a default       main          (with everything)
    +3        anything                                    our table     (with everything)
    END       nothing: where skipping ends

The two rules in the middle are what keeps the operator's login alive without a single firewall
rule: an answer to a connection that came in carries the address it came in to, and leaves as it
would without us; a new connection has no address yet. The reverse path check (ip-sysctl.txt,
rp_filter) asks with the same address, so strict mode passes too. Forwarded packets do not
come from `lo` and are captured like local ones.

IPv6 cannot match "no address yet" but never matches a source prefix without one, so two halves
of the address space stand for "an address".

With the kill switch nothing depends on the source: an address of its own takes no packet past us.
Instead of the routes in main only the private ranges are looked up there, and only if the local
network is allowed, or for what comes out of the TUN for a container; so a route that a hostile
network has announced is a way to nowhere but itself.
Our table ends with "unreachable", which stays when the device goes. `shim.launcher.kill_switch` has
the filter that holds for sockets that are bound to a device, and for whatever else the rules do not
see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from shim.netlink.changes import TABLE, Change, Family, KillSwitch, Rule, Unreachable
from shim.protocol import DEVICE, DEVICE4, DEVICE6, LAN, MARK, POOL4, POOL6
from shim.protocol.monitor import MAX_PREFIXES, Capture, Prefix

Network = IPv4Network | IPv6Network

EVERYTHING: Final = ("0.0.0.0/0", "::/0")

MAIN: Final = 254
FIRST: Final = 7200
CAPTURE: Final = 7210
END: Final = 7220

_DNS_PORT: Final = 53
_UDP: Final = 17
_TCP: Final = 6


DHCP: Final[dict[Family, tuple[int, int]]] = {4: (68, 67), 6: (546, 547)}
"""The ports of client and server (RFC 2131 §4.1, RFC 8415 §7.2)."""


def networks(prefixes: tuple[Prefix, ...]) -> list[Network]:
    """Return prefixes as networks. Raises ValueError for an invalid one, or too many."""
    if len(prefixes) > MAX_PREFIXES:
        raise ValueError("too many prefixes")
    return [ip_network((prefix.address, prefix.length)) for prefix in prefixes]


def is_allowed(capture: Capture, routes: Sequence[Network]) -> bool:
    """Whether all that this captures lies in `routes`. Raises ValueError as `networks`."""
    wanted = networks(capture.prefixes)
    if capture.everything or capture.names or capture.kill_switch:
        wanted += map(ip_network, EVERYTHING)
    return all(any(_is_in(one, route) for route in routes) for one in wanted)


def _is_in(one: Network, route: Network) -> bool:
    return one.version == route.version and one.subnet_of(route)  # type: ignore[arg-type]


def changes(
    capture: Capture, families: tuple[Family, ...] = (4, 6), held: Sequence[Change] = ()
) -> list[Change]:
    """Return the changes in their order, given those of an earlier instance that are `held`.

    The filter of the kill switch comes first, and the rules that capture last, so that no packet
    meets half a plan; it is always a new one, as the old one may be incomplete.
    Raises ValueError as `networks`.
    """
    chosen = networks(capture.prefixes)
    plan: list[Change] = []
    if capture.kill_switch:
        taken = {change.name for change in held if isinstance(change, KillSwitch)}
        names = {"overlay-vpn", *(f"overlay-vpn-{number}" for number in range(2, len(taken) + 2))}
        name = min(names - taken)
        plan += [KillSwitch(name, capture.lan), *map(Unreachable, families)]
    return plan + [rule for family in families for rule in _rules(family, capture, chosen)]


def _rules(family: Family, capture: Capture, chosen: list[Network]) -> Iterator[Rule]:
    rule = partial(Rule, family=family)
    # A target must exist before a rule may go to it.
    yield rule(priority=END)
    yield rule(priority=CAPTURE)
    yield rule(priority=FIRST, mark=MARK, goto=END)
    yield rule(priority=FIRST + 3, source=DEVICE4 if family == 4 else DEVICE6, table=TABLE)
    if capture.kill_switch:
        yield from _strict(family, capture.lan)
    else:
        yield from _by_source(family)
        if capture.everything:
            yield rule(priority=CAPTURE + 2, table=MAIN, without_default=True)
    pool = ip_network(POOL4 if family == 4 else POOL6)
    yield rule(priority=FIRST + 2, destination=str(pool), table=TABLE)
    if capture.names:
        for protocol in (_UDP, _TCP):
            yield rule(priority=FIRST + 1, protocol=protocol, port=_DNS_PORT, table=TABLE)
    for network in chosen:
        if network.version == family:
            yield rule(priority=CAPTURE + 1, destination=str(network), table=TABLE)
    if capture.everything:
        yield rule(priority=CAPTURE + 3, table=TABLE)


def _by_source(family: Family) -> Iterator[Rule]:
    if family == 4:
        yield Rule(family=4, priority=FIRST + 3, source="0.0.0.0/32", goto=CAPTURE)
        yield Rule(family=4, priority=FIRST + 4, incoming="lo", goto=END)
    else:
        for half in ("::/1", "8000::/1"):
            yield Rule(family=6, priority=FIRST + 4, incoming="lo", source=half, goto=END)


def _strict(family: Family, lan: bool) -> Iterator[Rule]:
    rule = partial(Rule, family=family)
    client, server = DHCP[family]
    yield rule(priority=FIRST, protocol=_UDP, port=server, source_port=client, goto=END)
    to_main = partial(rule, priority=CAPTURE + 2, table=MAIN, without_default=True)
    for prefix in LAN[family]:
        yield to_main(destination=prefix, incoming="" if lan else DEVICE)
