"""The routing rules: what a small model of ip-rule(8) makes of them is what the plan promises."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from shim.monitor.plan import (
    DHCP,
    is_allowed,
    networks,
)
from shim.monitor.plan import EVERYTHING as ANYWHERE
from shim.monitor.plan import changes as plan_of
from shim.netlink.changes import TABLE, Change, Family, KillSwitch, Rule, Unreachable
from shim.protocol import DEVICE4, DEVICE6, MARK
from shim.protocol.monitor import MAX_PREFIXES, Capture, Prefix

EVERYTHING = Capture(True, True, ())
UNSET = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True)
class Lookup:
    """What the kernel asks the rules about."""

    destination: str
    source: str = ""
    incoming: str = "lo"
    mark: int = 0
    protocol: int = 6
    port: int = 80
    source_port: int = 40000


def changes(capture: Capture, families: tuple[Family, ...] = (4, 6)) -> list[Rule]:
    return [change for change in plan_of(capture, families) if isinstance(change, Rule)]


def table_for(rules: list[Rule], lookup: Lookup, *, lan: tuple[str, ...] = ()) -> str:
    """Walk the rules as the kernel does; `lan` are routes of main that are no default."""
    destination = ip_address(lookup.destination)
    ordered = sorted(
        (rule for rule in rules if rule.family == destination.version),
        key=lambda rule: rule.priority,
    )
    at = 0
    for rule in ordered:
        if rule.priority < at or not matches(rule, lookup):
            continue
        if rule.goto:
            assert any(other.priority == rule.goto for other in ordered)
            at = rule.goto
        elif rule.without_default:
            if any(destination in ip_network(net) for net in lan if _same(net, destination)):
                return "main"
        elif rule.table == TABLE:
            return "ours"
    return "main"


def _same(net: str, address: IPv4Address | IPv6Address) -> bool:
    return ip_network(net).version == address.version


def matches(rule: Rule, lookup: Lookup) -> bool:
    destination = ip_address(lookup.destination)
    source = ip_address(lookup.source or UNSET[destination.version])
    if rule.mark and lookup.mark != rule.mark:
        return False
    if rule.incoming not in ("", lookup.incoming):
        return False
    if rule.destination and destination not in ip_network(rule.destination):
        return False
    if rule.source:
        # fib6_rule_match(): a source prefix never matches while there is no source address.
        if destination.version == 6 and not lookup.source:
            return False
        if source not in ip_network(rule.source):
            return False
    if rule.source_port and rule.source_port != lookup.source_port:
        return False
    return not rule.port or (rule.port, rule.protocol) == (lookup.port, lookup.protocol)


FAR = {4: "203.0.113.7", 6: "2001:db8:3::7"}
OWN = {4: "192.0.2.2", 6: "2001:db8:1::2"}
DEVICE = {4: DEVICE4, 6: DEVICE6}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_everything_captures_a_new_connection(family: int) -> None:
    rules = changes(EVERYTHING)
    assert table_for(rules, Lookup(FAR[family])) == "ours"


@FAMILIES
def test_everything_captures_segments_of_a_captured_connection(family: int) -> None:
    rules = changes(EVERYTHING)
    assert table_for(rules, Lookup(FAR[family], source=DEVICE[family])) == "ours"


@FAMILIES
@pytest.mark.parametrize("kill_switch", [False, True])
def test_address_of_the_tunnel_is_seen_nowhere_else(family: int, kill_switch: bool) -> None:
    """Not even by a neighbour: an answer to a late packet of the tunnel goes into the tunnel."""
    rules = changes(Capture(True, True, (), kill_switch=kill_switch))
    late = Lookup(PRIVATE[family], source=DEVICE[family], protocol=1)
    assert table_for(rules, late, lan=("192.168.1.0/24", "fd00::/64")) == "ours"


@FAMILIES
def test_outer_socket_is_not_captured(family: int) -> None:
    rules = changes(EVERYTHING)
    assert table_for(rules, Lookup(FAR[family], mark=MARK)) == "main"
    assert table_for(rules, Lookup(FAR[family], mark=MARK, port=53, protocol=17)) == "main"


@FAMILIES
def test_answer_of_an_incoming_login_leaves_as_it_came(family: int) -> None:
    rules = changes(EVERYTHING)
    assert table_for(rules, Lookup(FAR[family], source=OWN[family])) == "main"


@FAMILIES
def test_forwarded_packet_is_captured(family: int) -> None:
    rules = changes(EVERYTHING)
    forwarded = Lookup(FAR[family], source=OWN[family], incoming="br0")
    assert table_for(rules, forwarded) == "ours"


@FAMILIES
@pytest.mark.parametrize("kill_switch", [False, True])
def test_answer_out_of_the_tunnel_finds_its_container(family: int, kill_switch: bool) -> None:
    rules = changes(Capture(True, True, (), kill_switch=kill_switch))
    answer = Lookup(PRIVATE[family], source=FAR[family], incoming="ovpn0")
    assert table_for(rules, answer, lan=("192.168.1.0/24", "fd00::/64")) == "main"
    assert table_for(rules, answer) == "ours"


@FAMILIES
@pytest.mark.parametrize("protocol", [6, 17])
def test_query_to_any_resolver_is_captured_whatever_its_source(family: int, protocol: int) -> None:
    rules = changes(EVERYTHING)
    query = Lookup(FAR[family], source=OWN[family], port=53, protocol=protocol)
    assert table_for(rules, query, lan=(f"{FAR[family]}",)) == "ours"


def test_everything_leaves_the_local_network_alone() -> None:
    rules = changes(EVERYTHING)
    assert table_for(rules, Lookup("192.0.2.9"), lan=("192.0.2.0/24",)) == "main"
    assert table_for(rules, Lookup("198.51.100.9"), lan=("192.0.2.0/24",)) == "ours"


def test_prefixes_capture_what_is_inside_and_nothing_else() -> None:
    chosen = (
        Prefix(bytes([203, 0, 113, 0]), 24),
        Prefix(IPv6Address("2001:db8:3::").packed, 48),
    )
    rules = changes(Capture(False, False, chosen))
    for family in (4, 6):
        assert table_for(rules, Lookup(FAR[family])) == "ours"
        assert table_for(rules, Lookup(FAR[family], port=53)) == "ours"
    assert table_for(rules, Lookup("198.51.100.9")) == "main"
    assert table_for(rules, Lookup("198.51.100.9", port=53, protocol=17)) == "main"
    assert table_for(rules, Lookup("2001:db8:4::1")) == "main"


def test_names_capture_resolvers_and_pools_only() -> None:
    rules = changes(Capture(False, True, ()))
    assert table_for(rules, Lookup("198.18.5.5")) == "ours"
    assert table_for(rules, Lookup("fd6f:7670:6e00::5")) == "ours"
    assert table_for(rules, Lookup("198.51.100.9", port=53, protocol=17)) == "ours"
    assert table_for(rules, Lookup("198.51.100.9")) == "main"


def test_family_that_the_kernel_lacks_has_no_rules() -> None:
    assert {rule.family for rule in changes(EVERYTHING, (4,))} == {4}


def test_target_of_a_jump_is_added_before_the_jump() -> None:
    seen: set[tuple[int, int]] = set()
    for rule in changes(EVERYTHING):
        assert not rule.goto or (rule.family, rule.goto) in seen
        seen.add((rule.family, rule.priority))


@pytest.mark.parametrize(
    "prefix",
    [
        Prefix(b"", 0),
        Prefix(b"\x0a\x00\x00", 8),
        Prefix(b"\x0a\x00\x00\x00", 33),
        Prefix(b"\x0a\x00\x00\x00", -1),
        Prefix(b"\x0a\x00\x00\x01", 8),
        Prefix(bytes(16), 129),
    ],
)
def test_prefix_that_is_none_is_refused(prefix: Prefix) -> None:
    with pytest.raises(ValueError, match=r".+"):
        changes(Capture(False, False, (prefix,)))


def test_too_many_prefixes_are_refused() -> None:
    prefix = Prefix(bytes(4), 32)
    with pytest.raises(ValueError, match="too many"):
        changes(Capture(False, False, (prefix,) * (MAX_PREFIXES + 1)))


SWITCH = Capture(True, True, (), kill_switch=True, lan=True)
ALONE = Capture(True, True, (), kill_switch=True, lan=False)
PRIVATE = {4: "192.168.1.20", 6: "fd00::20"}


@FAMILIES
@pytest.mark.parametrize("capture", [SWITCH, ALONE])
def test_switch_lets_no_source_address_pass(family: int, capture: Capture) -> None:
    rules = changes(capture)
    for source in (UNSET[family], OWN[family], DEVICE[family]):
        assert table_for(rules, Lookup(FAR[family], source=source)) == "ours"
    assert table_for(rules, Lookup(FAR[family], mark=MARK)) == "main"


@FAMILIES
def test_switch_ignores_a_route_that_a_hostile_network_has_announced(family: int) -> None:
    announced = ("128.0.0.0/1", "203.0.113.7/32", "2000::/3", "2001:db8:3::7/128")
    assert table_for(changes(EVERYTHING), Lookup(FAR[family]), lan=announced) == "main"
    for capture in (SWITCH, ALONE):
        assert table_for(changes(capture), Lookup(FAR[family]), lan=announced) == "ours"


@FAMILIES
def test_local_network_is_a_choice(family: int) -> None:
    routes = ("192.168.1.0/24", "fd00::/64")
    at_home = Lookup(PRIVATE[family])
    assert table_for(changes(SWITCH), at_home, lan=routes) == "main"
    assert table_for(changes(ALONE), at_home, lan=routes) == "ours"
    query = Lookup(PRIVATE[family], protocol=17, port=53)
    assert table_for(changes(SWITCH), query, lan=routes) == "ours"


@FAMILIES
def test_switch_lets_the_lease_be_renewed(family: Family) -> None:
    client, server = DHCP[family]
    renewal = Lookup(FAR[family], OWN[family], protocol=17, port=server, source_port=client)
    assert table_for(changes(ALONE), renewal) == "main"
    other = Lookup(FAR[family], OWN[family], protocol=17, port=server)
    assert table_for(changes(ALONE), other) == "ours"


def test_filter_is_made_first_and_the_rules_that_capture_last() -> None:
    plan = plan_of(SWITCH)
    assert plan[:3] == [KillSwitch("overlay-vpn", True), Unreachable(4), Unreachable(6)]
    assert all(isinstance(change, Rule) for change in plan[3:])
    assert not any(isinstance(change, KillSwitch | Unreachable) for change in plan_of(EVERYTHING))


def test_filter_is_never_the_one_that_is_held() -> None:
    held: list[Change] = []
    for _ in range(3):
        plan = plan_of(SWITCH, held=held)
        assert not {plan[0]} & set(held)
        held = plan


# What a policy allows.

TEN = Prefix(bytes([10, 0, 0, 0]), 8)
TEN_ONE = Prefix(bytes([10, 1, 0, 0]), 16)
DOC6 = Prefix(IPv6Address("2001:db8::").packed, 32)


def allows(routes: tuple[str, ...], capture: Capture) -> bool:
    return is_allowed(capture, tuple(map(ip_network, routes)))


def test_everything_allows_everything() -> None:
    assert allows(ANYWHERE, Capture(True, True, (TEN, DOC6), kill_switch=True))


def test_only_prefixes_within_the_routes_are_allowed() -> None:
    assert allows(("10.0.0.0/8", "2001:db8::/32"), Capture(False, False, (TEN, TEN_ONE, DOC6)))
    assert not allows(("10.1.0.0/16",), Capture(False, False, (TEN,)))
    assert not allows(("::/0",), Capture(False, False, (TEN,)))
    assert not allows((), Capture(False, False, (TEN,)))
    assert allows((), Capture(False, False, ()))


@pytest.mark.parametrize(
    "capture",
    [Capture(True, False, ()), Capture(False, True, ()), Capture(False, False, (), True)],
    ids=["everything", "names", "kill switch"],
)
def test_what_captures_beyond_prefixes_needs_all_of_the_address_space(capture: Capture) -> None:
    assert not allows(("0.0.0.0/0",), capture)
    assert allows(("0.0.0.0/0", "::/0"), capture)


@pytest.mark.parametrize(
    ("address", "length"),
    [(bytes(5), 8), (b"", 0), (bytes(4), 33), (bytes(16), 129), (bytes(4), -1), (b"\x0a\0\0\1", 8)],
)
def test_what_is_no_prefix_is_refused(address: bytes, length: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        networks((Prefix(address, length),))
