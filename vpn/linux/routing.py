"""Routes and rules of the kernel as data, and the rule that has led to a route. Pure.

The kernel says which route a packet takes, and not by which rule it has come to it. So the rules
are followed until one leads to that route's table: what the kernel has decided is explained, and
where it cannot be, no rule is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

TCP: Final = 6


class Prefix(NamedTuple):
    """An address and the length of its prefix in bits."""

    address: str
    bits: int

    def __str__(self) -> str:
        return "default" if self.bits == 0 else f"{self.address}/{self.bits}"

    def covers(self, packed: bytes) -> bool:
        """Return whether an address, in network order, is in this prefix."""
        network = ip_network((self.address, self.bits), strict=False)
        return ip_address(packed) in network


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of this machine that has no source address yet. Port 0 is for none."""

    address: str
    port: int = 0
    mark: int = 0
    protocol: int = TCP

    @property
    def packed(self) -> bytes:
        """The destination, in network order."""
        return ip_address(self.address).packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The route of a packet. `kind` is a type of ip-route(8), `prefix` its destination."""

    kind: str
    table: int
    prefix: Prefix
    device: str
    gateway: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of ip-rule(8). `origin` is its `rtm_protocol`; `suppresses` are prefix lengths.

    `is_nothing` is a target of `goto`; `is_unclear` says that it asks for what is not known here.
    """

    priority: int
    table: int = 0
    goto: int = 0
    is_nothing: bool = False
    origin: int = 0
    source: Prefix | None = None
    destination: Prefix | None = None
    mark: int = 0
    mark_mask: int = 0
    incoming: str = ""
    protocol: int = 0
    ports: range = range(0)
    suppresses: int = -1
    is_unclear: bool = False

    def covers(self, packet: Packet) -> bool:
        """Return whether the rule selects a packet."""
        packed = packet.packed
        return (
            not self.is_unclear
            and (self.source is None or _is_unspecified(self.source, len(packed)))
            and (self.destination is None or self.destination.covers(packed))
            and packet.mark & self.mark_mask == self.mark
            and self.incoming in ("", "lo")
            and self.protocol in (0, packet.protocol if packet.port else 0)
            and (not self.ports or packet.port in self.ports)
        )

    def __str__(self) -> str:
        parts = ["to", str(self.destination)] * (self.destination is not None)
        parts += ["from", str(self.source)] * (self.source is not None)
        parts += [f"mark {self.mark:#x}"] * bool(self.mark)
        if self.ports:
            last = self.ports[-1]
            parts.append(f"port {self.ports[0]}" + f"-{last}" * (last != self.ports[0]))
        parts += ["anything"] * (not parts)
        parts += ["but a default route"] * (self.suppresses == 0)
        return " ".join(parts)


def _is_unspecified(source: Prefix, size: int) -> bool:
    # A packet without a source has the IPv4 address 0.0.0.0; in IPv6 no source prefix matches it.
    return size == 4 and source.covers(bytes(4))


def rule_of(rules: Iterable[Rule], packet: Packet, route: Route) -> Rule | None:
    """Return the rule by which a packet has come to its route, None if that cannot be said."""
    begin = 0
    for rule in rules:
        if rule.priority < begin or rule.is_nothing:
            continue
        if rule.is_unclear and rule.table == route.table:
            return None
        if not rule.covers(packet):
            continue
        if rule.goto:
            begin = rule.goto
        elif rule.table == route.table and route.prefix.bits > rule.suppresses:
            return rule
    return None
