"""What becomes of a query: answered, asked of the far end, passed on, or met with silence.

Theory of operation
-------------------
Pure, and without a memory of its own: the pool is the only state, and a question that waits for
the far end is carried by its `Lookup`. Order matters and is the order of `on_query`:

1. What is no query gets the answer its parser asks for.
2. A query that is not ours goes where it went before, octet for octet. Ours are the names that
   match the profile's suffixes (all names, where there are none), the reverse names of the pool,
   and two names by which applications decide to leave this resolver for another one: had they
   their way, the names of the profile would be asked of strangers, and in vain.
3. Special-use names have their fixed answers (`dns.names.special_use`).
4. Addresses are virtual. In mode `REMOTE` the far end says first whether there are any, so that
   what does not exist does not exist here. HTTPS and SVCB are NODATA: their address hints and
   alternative ports lead past the pool, and an answer that has had them taken out is one that its
   owner never gave. NODATA even for names that do not exist, as only types A and AAAA are asked
   of the far end, and whoever asks for HTTPS asks for these too.
5. Other types are not answered yet, and we say so (NOTIMP) rather than claim that nothing is
   there. That goes for reverse names outside the pool as well.

A suffix is what its owner says it is: one under `.local` wins over multicast DNS, because private
networks do use that domain; the other special names cannot be claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address

from dns import answer
from dns.codes import IN, ExtendedError, RCode, RRType
from dns.message import Malformed, Query, parse_query
from dns.names import (
    Labels,
    SpecialUse,
    fold,
    from_text,
    host_name,
    matches_suffix,
    reverse_address,
    special_use,
)
from dns.pool import Pool
from dns.upstream import Outcome

__all__ = ["Forward", "Ignore", "Lookup", "Mode", "Outcome", "Reply", "Resolver"]

_ALWAYS_OURS = (SpecialUse.DISCOVERY, SpecialUse.CANARY)
_FIXED_ADDRESSES: dict[SpecialUse, tuple[IPv4Address | IPv6Address, ...]] = {
    SpecialUse.LOOPBACK: (IPv4Address("127.0.0.1"), IPv6Address("::1")),
    # RFC 7050 §8.2. No AAAA among them: there is no NAT64 here, addresses are translated by name.
    SpecialUse.IPV4_ONLY: (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")),
}


class Mode(Enum):
    """Whom an address is asked of."""

    VIRTUAL = auto()
    """Nobody: every host name has addresses of both families."""
    REMOTE = auto()
    """The far end: what it does not find has none."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this message back."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask the far end whether `name` has records of type `rtype`, then call `on_outcome`."""

    query: Query
    name: str
    rtype: int
    over_tcp: bool


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this message where the asker meant it to go, and its answer back, both untouched."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Ignore:
    """Say nothing."""


class Resolver:
    """Decides about queries.

    `suffixes` are the domains whose names are ours, as text; empty means every name. Raises
    ValueError where one is not a domain.
    """

    def __init__(self, pool: Pool, mode: Mode, suffixes: tuple[str, ...]) -> None:
        self._pool = pool
        self._mode = mode
        self._suffixes = tuple(map(from_text, suffixes))

    def on_query(
        self, wire: bytes, *, over_tcp: bool, now: float
    ) -> Reply | Lookup | Forward | Ignore:
        """Decide about a message of a client, read at `now` on the clock of the pool."""
        query = parse_query(wire)
        if query is None:
            return Ignore()
        if isinstance(query, Malformed):
            return Reply(answer.malformed(query))
        name = fold(query.labels)
        special = self._special_use(name)
        pooled = self._pool_address(query.qtype, name)
        if pooled is None and special not in _ALWAYS_OURS and not self._is_ours(name):
            return Forward(wire)
        if query.qclass != IN:
            return _unsupported(query)
        if pooled is not None:
            return self._reply_pointer(query, pooled)
        if special is not None:
            return _reply_special(query, special, over_tcp)
        return self._on_ordinary(query, name, over_tcp, now)

    def on_outcome(self, lookup: Lookup, outcome: Outcome, now: float) -> Reply:
        """Answer a query about which the far end has been asked."""
        query = lookup.query
        match outcome:
            case Outcome.FOUND:
                return self._reply_virtual(query, lookup.name, lookup.over_tcp, now)
            case Outcome.NO_DATA:
                return Reply(answer.no_data(query))
            case Outcome.NX_DOMAIN:
                return Reply(answer.nx_domain(query))
            case Outcome.REFUSED:
                why, text = ExtendedError.BLOCKED, "by a rule of the far end"
                return Reply(answer.error(query, RCode.REFUSED, why, text))
            case Outcome.FAILED:
                why, text = ExtendedError.NO_REACHABLE_AUTHORITY, "no answer from the far end"
                return Reply(answer.error(query, RCode.SERVFAIL, why, text))
            case Outcome.UNREACHABLE:
                why, text = ExtendedError.NETWORK_ERROR, "the far end cannot be asked now"
                return Reply(answer.error(query, RCode.SERVFAIL, why, text))

    def _on_ordinary(
        self, query: Query, name: Labels, over_tcp: bool, now: float
    ) -> Reply | Lookup:
        match query.qtype:
            case RRType.A | RRType.AAAA:
                return self._on_address(query, name, over_tcp, now)
            case RRType.HTTPS | RRType.SVCB:
                return Reply(answer.no_data(query))
            case RRType.ANY:
                return Reply(answer.any_type(query))
            case _:
                return _unsupported(query)

    def _on_address(self, query: Query, name: Labels, over_tcp: bool, now: float) -> Reply | Lookup:
        host = host_name(name)
        if host is None:
            return Reply(answer.no_data(query))
        if self._mode is Mode.REMOTE:
            return Lookup(query, host, query.qtype, over_tcp)
        return self._reply_virtual(query, host, over_tcp, now)

    def _reply_virtual(self, query: Query, host: str, over_tcp: bool, now: float) -> Reply:
        addresses = self._pool.assign(host, now)
        if addresses is None:
            text = "no virtual address is free"
            return Reply(answer.error(query, RCode.SERVFAIL, ExtendedError.OTHER, text))
        return Reply(answer.addresses(query, addresses, over_tcp=over_tcp))

    def _reply_pointer(self, query: Query, address: IPv4Address | IPv6Address) -> Reply:
        name = self._pool.name_of(address)
        if name is None:
            return Reply(answer.nx_domain(query))
        return Reply(answer.pointer(query, from_text(name)))

    def _pool_address(self, qtype: int, name: Labels) -> IPv4Address | IPv6Address | None:
        if qtype != RRType.PTR:
            return None
        address = reverse_address(name)
        return address if address is not None and self._pool.contains(address) else None

    def _special_use(self, name: Labels) -> SpecialUse | None:
        special = special_use(name)
        return None if special is SpecialUse.MULTICAST and self._suffixes else special

    def _is_ours(self, name: Labels) -> bool:
        return not self._suffixes or any(matches_suffix(name, suffix) for suffix in self._suffixes)


def _reply_special(query: Query, special: SpecialUse, over_tcp: bool) -> Reply:
    match special:
        case SpecialUse.LOOPBACK | SpecialUse.IPV4_ONLY:
            return Reply(answer.addresses(query, _FIXED_ADDRESSES[special], over_tcp=over_tcp))
        case SpecialUse.DISCOVERY:
            return Reply(answer.no_data(query))
        case SpecialUse.NO_SUCH_NAME | SpecialUse.MULTICAST | SpecialUse.CANARY:
            return Reply(answer.nx_domain(query))


def _unsupported(query: Query) -> Reply:
    text = "only addresses of class IN"
    return Reply(answer.error(query, RCode.NOTIMP, ExtendedError.NOT_SUPPORTED, text))
