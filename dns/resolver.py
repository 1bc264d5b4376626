"""The virtual resolver: a query is answered, asked of the far end, forwarded or ignored.

Theory of operation
-------------------
The pool is the only state: a query that waits for the far end is carried by its `Lookup`. The order
of the rules is that of `on_query`:

1. A malformed query gets the response code that its parser has found.
2. A query that is not ours is forwarded to the server that it was sent to, octet for octet. Ours
   are the names below the suffixes of the profile (all names, if there are none), the reverse names
   of the pool, and two names by which applications decide to use another resolver instead of this
   one: that one would be asked for the names of the profile, and would not know them.
3. Special-use names have fixed answers (`dns.names.special_use`).
4. Addresses are virtual. In mode `REMOTE` the far end is asked first whether there are any, so that
   a name exists here only if it exists there. The owner of an address is the name in the question,
   also if that is an alias: the alias itself is a CNAME record, a type like any other.
5. HTTPS and SVCB are NODATA: their address hints and alternative ports lead past the pool, and a
   record without these is one that its owner never published. So are the few other types that hold
   addresses. The answer is NODATA even for names that do not exist, as the far end is not asked for
   these types, and an application that asks for them asks for A and AAAA too.
6. Other types are asked of the far end; its answer is read and written again (`dns.upstream`). If
   there is no resolver to ask, the answer is NOTIMP, as NODATA would claim that there is no such
   record. That applies to reverse names outside the pool as well.

A suffix below `.local` takes precedence over multicast DNS, because private networks do use that
domain; the other special-use names cannot be claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address

from dns import response
from dns.codes import IN, ExtendedError, RCode, RRType
from dns.disposition import ADDRESSES, HIDDEN, Path, path_of, special_as
from dns.message import Malformed, Query, parse_query
from dns.names import (
    FIXED_ADDRESSES,
    Labels,
    SpecialUse,
    fold,
    from_text,
    host_name,
    reverse_address,
    to_text,
)
from dns.pool import Pool
from dns.upstream import Outcome, read_answer

__all__ = ["Decision", "Forward", "Lookup", "Mode", "Outcome", "Reply", "Resolver"]


class Mode(Enum):
    """The resolver that is asked for addresses."""

    VIRTUAL = auto()
    """None: every host name has addresses of both families."""
    REMOTE = auto()
    """That of the far end: a name that it does not find has no address."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this message back."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask the far end for records of type `rtype` of `name`, then call `on_outcome`.

    `name` is in lower case, in the form of `dns.names.to_text`.
    """

    query: Query
    name: str
    rtype: int
    over_tcp: bool


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this message to the server it was sent to, and the answer back, both unchanged."""

    wire: bytes


Decision = Reply | Lookup | Forward | None
"""None: there is no answer."""


class Resolver:
    """Decides on queries.

    `suffixes` are the domains that the tunnel answers for, as text; empty means all names. Raises
    ValueError if one is not a domain.
    """

    def __init__(self, pool: Pool, mode: Mode, suffixes: tuple[str, ...]) -> None:
        self._pool = pool
        self._mode = mode
        self._suffixes = tuple(map(from_text, suffixes))

    def on_query(self, wire: bytes, *, over_tcp: bool, now: float) -> Decision:
        """Decide on a message of a client, read at `now` on the clock of the pool."""
        query = parse_query(wire)
        if query is None:
            return None
        if isinstance(query, Malformed):
            return Reply(response.malformed(query))
        name = fold(query.labels)
        pooled = self._pool_address(query.qtype, name)
        path = path_of(
            name,
            query.qtype,
            self._suffixes,
            is_pooled=pooled is not None,
            asks=self._mode is Mode.REMOTE,
        )
        if path is Path.FORWARDED:
            return Forward(wire)
        if query.qclass != IN:
            return _unsupported(query, "only class IN")
        if pooled is not None:
            return self._reply_pointer(query, pooled)
        special = special_as(name, self._suffixes)
        if path is Path.SPECIAL and special is not None:
            return _reply_special(query, special, over_tcp)
        if path is Path.FAR:
            return Lookup(query, to_text(name), query.qtype, over_tcp)
        return self._reply_here(query, name, over_tcp, now)

    def on_outcome(self, lookup: Lookup, outcome: Outcome, message: bytes, now: float) -> Reply:
        """Answer a query for which the far end has been asked.

        `message` is its answer, as written by `dns.upstream.write_answer`; unused for addresses.
        """
        query = lookup.query
        match outcome:
            case Outcome.FOUND | Outcome.NO_DATA | Outcome.NX_DOMAIN:
                return self._on_answered(lookup, outcome, message, now)
            case Outcome.UNSUPPORTED:
                return _unsupported(query, "nobody there can be asked for this type")
            case Outcome.REFUSED:
                why, text = ExtendedError.BLOCKED, "by a rule of the far end"
                return Reply(response.error(query, RCode.REFUSED, why, text))
            case Outcome.FAILED:
                return _failed(query)
            case Outcome.UNREACHABLE:
                why, text = ExtendedError.NETWORK_ERROR, "the far end cannot be asked now"
                return Reply(response.error(query, RCode.SERVFAIL, why, text))

    def _on_answered(self, lookup: Lookup, outcome: Outcome, message: bytes, now: float) -> Reply:
        query = lookup.query
        if lookup.rtype in ADDRESSES:
            match outcome:
                case Outcome.FOUND:
                    return self._reply_virtual(query, lookup.name, lookup.over_tcp, now)
                case Outcome.NX_DOMAIN:
                    return Reply(response.nx_domain(query))
                case _:
                    return Reply(response.no_data(query))
        far = read_answer(message, 0, lookup.name, lookup.rtype)
        if far.outcome is not outcome:
            return _failed(query)
        return Reply(response.far(query, far, over_tcp=lookup.over_tcp))

    def _reply_here(self, query: Query, name: Labels, over_tcp: bool, now: float) -> Reply:
        if query.qtype in HIDDEN:
            return Reply(response.no_data(query))
        if query.qtype == RRType.ANY:
            return Reply(response.any_type(query))
        if query.qtype not in ADDRESSES:
            return _unsupported(query, "only addresses are known here")
        host = host_name(name)
        if host is None:
            return Reply(response.no_data(query))
        return self._reply_virtual(query, host, over_tcp, now)

    def _reply_virtual(self, query: Query, host: str, over_tcp: bool, now: float) -> Reply:
        addresses = self._pool.assign(host, now)
        if addresses is None:
            text = "no virtual address is free"
            return Reply(response.error(query, RCode.SERVFAIL, ExtendedError.OTHER, text))
        return Reply(response.addresses(query, addresses, over_tcp=over_tcp))

    def _reply_pointer(self, query: Query, address: IPv4Address | IPv6Address) -> Reply:
        name = self._pool.name_of(address)
        if name is None:
            return Reply(response.nx_domain(query))
        return Reply(response.pointer(query, from_text(name)))

    def _pool_address(self, qtype: int, name: Labels) -> IPv4Address | IPv6Address | None:
        if qtype != RRType.PTR:
            return None
        address = reverse_address(name)
        return address if address is not None and self._pool.contains(address) else None


def _reply_special(query: Query, special: SpecialUse, over_tcp: bool) -> Reply:
    match special:
        case SpecialUse.LOOPBACK | SpecialUse.IPV4_ONLY:
            return Reply(response.addresses(query, FIXED_ADDRESSES[special], over_tcp=over_tcp))
        case SpecialUse.DISCOVERY:
            return Reply(response.no_data(query))
        case SpecialUse.NO_SUCH_NAME | SpecialUse.MULTICAST | SpecialUse.CANARY:
            return Reply(response.nx_domain(query))


def _failed(query: Query) -> Reply:
    why, text = ExtendedError.NO_REACHABLE_AUTHORITY, "no answer from the far end"
    return Reply(response.error(query, RCode.SERVFAIL, why, text))


def _unsupported(query: Query, text: str) -> Reply:
    return Reply(response.error(query, RCode.NOTIMP, ExtendedError.NOT_SUPPORTED, text))
