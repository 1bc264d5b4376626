"""The explanation of one tunnel: the answers to `dns status`, `dns query` and `route get`.

Nothing is decided here. Each answer is assembled from the modules that decide: `dns.disposition`,
which the gate uses too, admission, the resolver, the pool of the gate, and the session. So a query
for a name may be sent to the far end, as an application's would be; it is part of no report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from dns.codes import RRType
from dns.disposition import ADDRESSES, Path, path_of
from dns.names import fold, from_text, parse_text, reverse_address, to_text
from dns.upstream import Outcome
from shim.protocol import GATEWAY4, GATEWAY6, POOL4, POOL6
from shim.protocol.gate import Configure, PoolState
from vpn.client.flows.admission import Admission, Destination
from vpn.client.flows.egress import Egress
from vpn.client.names.lookups import Lookups
from vpn.client.names.pool_query import PoolQuestions
from vpn.client.session.renewing import Uplink
from vpn.config.forwards import address_of
from vpn.control.messages import DestinationStatus, DnsStatus, Pool, Resolution, Way
from vpn.endpoint import join_host_port

FAR_TIMEOUT_S: Final = 5.0
_POOL: Final = (IPv4Network(POOL4), IPv6Network(POOL6))
_GATEWAYS: Final = (GATEWAY4, GATEWAY6)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelContext:
    """What an explanation has to know of a tunnel besides its session and its gate."""

    server: str
    server_addresses: frozenset[str] = frozenset()
    asked: str
    """The resolver at the far end: `server` for the server's own, an address, or empty for none."""
    is_captured: bool = True
    """Whether queries for names are captured."""
    search: tuple[str, ...] = ()
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0
    resolved: str = "absent"
    warnings: tuple[str, ...] = ()


def asked_of(dns_server: str | None, *, is_asking: bool) -> str:
    """Return the resolver at the far end, as in `TunnelContext`."""
    return (dns_server or "server") if is_asking else ""


class Explainer:
    """The explanation of one tunnel."""

    def __init__(
        self,
        egress: Egress,
        lookups: Lookups,
        uplink: Uplink,
        pool: PoolQuestions,
        configured: Configure,
        context: Callable[[], TunnelContext],
    ) -> None:
        """`configured` is the configuration of the gate; `context` returns the current one."""
        self._egress = egress
        self._lookups = lookups
        self._uplink = uplink
        self._pool = pool
        self._asks = configured.ask_far_end
        self._suffixes = tuple(map(from_text, configured.suffixes))
        self._suffix_texts = configured.suffixes
        self._context = context

    async def dns_status(self) -> DnsStatus:
        """Return how names are answered."""
        context = self._context()
        resolver = self._lookups.resolver
        state = await self._pool.ask()
        return DnsStatus(
            mode="virtual" if resolver is None else "remote",
            asked=context.asked,
            is_connected=self._uplink.is_up,
            is_captured=context.is_captured,
            suffixes=self._suffix_texts,
            hosts={
                name: join_host_port(address, port) if port else address
                for name, (address, port) in self._egress.limits.hosts.items()
            },
            search=context.search,
            pool=None if state is None else Pool(state.slots, state.used, state.pinned),
            cache_answers=0 if resolver is None else resolver.cached,
            cache_hits=0 if resolver is None else resolver.hits,
            resolved=context.resolved,
            paused_s=context.paused_s,
            warnings=context.warnings,
        )

    def resolution(self, name: str, rtype: int) -> Resolution:
        """Return how a query is answered. Raises ValueError if `name` is not a name."""
        context = self._context()
        labels = fold(parse_text(name))
        if not context.is_captured or context.paused_s:
            return Resolution(way="outside")
        address = reverse_address(labels) if rtype == RRType.PTR else None
        pooled = address is not None and _is_pool(address)
        path = path_of(labels, rtype, self._suffixes, is_pooled=pooled, asks=self._asks)
        is_virtual = rtype in ADDRESSES and path is not Path.SPECIAL
        if path is not Path.FAR:
            return Resolution(way=_way(path), is_virtual=is_virtual and path is Path.VIRTUAL)
        return self._resolution_by_client(to_text(labels), rtype, is_virtual=is_virtual)

    def _resolution_by_client(self, text: str, rtype: int, *, is_virtual: bool) -> Resolution:
        """Return how the client answers a query that the gate passes on to it."""
        decision = self._lookups.judge(text, rtype)
        if not decision.allowed:
            number = self._egress.limits.policy.number_of(decision)
            return Resolution(way="refused", rule=decision.rule_text, rule_number=number)
        path, resolver = self._lookups.path_of(text, rtype), self._lookups.resolver
        kept = resolver and resolver.cached_for(text, rtype)
        age_s, left_s = kept or (0, 0)
        return Resolution(
            way=_way(path),
            asked=self._context().asked if path in (Path.FAR, Path.CACHED) else "",
            is_virtual=is_virtual,
            is_away=path is Path.FAR and not self._uplink.is_up,
            age_s=age_s,
            left_s=left_s,
        )

    async def destination(self, host: str, port: int) -> DestinationStatus:
        """Return what becomes of a packet to a name or address; the port is 0 if it has none.

        Raises ValueError if `host` is neither a name nor an address.
        """
        address = address_of(host)
        way, outcome = None, ""
        families: tuple[int, ...] = (4, 6)
        if address is None:
            host = ".".join(label.decode() for label in from_text(host))
            way = self.resolution(host, RRType.A)
            outcome, families = await self._outcome(host, way)
        state = await self._pool.ask(host) if way is None or way.is_virtual else None
        name = state.name if state is not None and address is not None else ""
        context, limits = self._context(), self._egress.limits
        meant = name or host
        admission = self._admission(meant, port)
        place, place_port = limits.hosts.get(meant, ("", 0))
        return DestinationStatus(
            name=name if address is not None else host,
            way=way,
            outcome=outcome,
            addresses=_addresses(state, families) if address is None else (),
            is_assigned=state is not None and state.is_assigned,
            is_pool=address is not None and _is_pool(address) and host not in _GATEWAYS,
            obstacle=None if admission.obstacle is None else admission.obstacle.value,
            rule=admission.decision.rule_text,
            rule_number=limits.policy.number_of(admission.decision),
            exit=admission.exit,
            place=place,
            place_port=place_port,
            server=context.server,
            is_server=address is not None and str(address) in context.server_addresses,
            retry_in_s=self._uplink.retry_in_s,
            last_error=self._uplink.last_error,
            carries_udp=self._uplink.is_overlay_server,
            kill_switch=context.kill_switch,
            lan=context.lan,
            paused_s=context.paused_s,
        )

    def _admission(self, host: str, port: int) -> Admission:
        """Return what becomes of a connection, or of ping where no port is asked about.

        At the loopback of this machine it is a connection: ping says nothing about its ports.
        """
        is_ping = not port and self._egress.exit_of(host) == "server"
        return self._egress.judge(Destination("icmp" if is_ping else "tcp", host, port))

    async def _outcome(self, name: str, way: Resolution) -> tuple[str, tuple[int, ...]]:
        """Return the outcome of queries for a name's addresses, and the families that it has."""
        if not way.is_virtual:
            return "", ()
        outcomes = [Outcome.FAILED, Outcome.FAILED]
        with suppress(TimeoutError):
            async with asyncio.timeout(FAR_TIMEOUT_S):
                answers = await asyncio.gather(*(self._lookups.known(name, r) for r in ADDRESSES))
                outcomes = [answer.outcome for answer in answers]
        found = tuple(n for n, one in zip((4, 6), outcomes, strict=True) if one is Outcome.FOUND)
        return (Outcome.FOUND if found else outcomes[0]).name.lower(), found


def _way(path: Path) -> Way:
    return path.value


def _is_pool(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _POOL)


def _addresses(state: PoolState | None, families: tuple[int, ...]) -> tuple[str, ...]:
    found = map(ip_address, state.addresses) if state is not None else ()
    return tuple(str(one) for one in found if one.version in families)
