"""The ICMP echo queries of a gate, one for each program that pings a host (RFC 5508).

Theory of operation
-------------------
Pure: packets, messages and the time come in as arguments; orders come out.

A *query* is what one program pings: source, identifier and destination (RFC 5508 §3). The gate
numbers it and asks the client, who has the far end ping; sequence and payload are the program's
own. An answer names the query and the sequence, and becomes an echo reply from the address that was
pinged, or the ICMP error that a router has sent, about the program's own packet. The gate answers
nothing on its own: a request that is lost there is lost here, and replies that come twice or out of
order are passed on like that.

Requests to its own addresses the gate answers itself. A virtual address without a name is an
unreachable host.

Bounds: `max_queries`; one more replaces the idlest. `max_quotes` starts of requests, for errors to
quote; one more replaces the oldest. A query is forgotten after `IDLE_S`; until then its name keeps
its address. A gate that follows one that was killed knows no queries: the next request makes one.

ICMPv4 types and ICMPv6 types are different numbers for the same things; the errors that are let
through are listed in `_ERRORS`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shim.gate.orders import Drop, Order, SendDatagram, answer
from shim.gate.targets import GATEWAYS, Targets, address_of, is_gateway
from shim.gate.wire import packet
from shim.gate.wire.packet import Packet, Unreachable
from shim.protocol.datagrams import Ping, Pong, Unanswered
from shim.protocol.gate import DropReason, first_number

IDLE_S: Final = 60.0
"""As long as a query session lives at least (RFC 5508, REQ-2)."""

_ERRORS: Final = {4: frozenset({3, 11, 12}), 16: frozenset({1, 2, 3, 4})}
"""Unreachable, too big, time exceeded, parameter problem (RFC 792, RFC 4443)."""

_DONT_FRAGMENT: Final = 0x40
_LATE: Final = Drop(DropReason.LATE_ECHO)

_Key = tuple[bytes, int, bytes]


@dataclass(slots=True)
class _Query:
    """A query; `key` is source, identifier and destination, `host` what the client is asked for."""

    number: int
    key: _Key
    host: str
    name: str | None
    last: float


class Echo:
    """All queries of a gate."""

    def __init__(
        self,
        names: Targets,
        generation: int = 1,
        *,
        max_queries: int = 1024,
        max_quotes: int = 4096,
    ) -> None:
        self._names = names
        self._max_queries = max_queries
        self._max_quotes = max_quotes
        self._by_key: OrderedDict[_Key, _Query] = OrderedDict()
        self._by_number: dict[int, _Query] = {}
        self._quotes: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._next = first_number(generation)

    def __len__(self) -> int:
        return len(self._by_number)

    def on_request(self, request: Packet, now: float) -> Order:
        """An application has sent an echo request, which may pass a router."""
        identifier, sequence, payload = packet.echo_of(request)
        if is_gateway(request.destination):
            ends = request.destination, request.source
            return answer(packet.echo_reply(*ends, identifier, sequence, payload))
        key = (request.source, identifier, request.destination)
        query = self._by_key.get(key) or self._begin(key, now)
        if query is None:
            gateway = GATEWAYS[len(request.source)]
            return answer(packet.unreachable(request, Unreachable.HOST, gateway))
        self._use(query, now)
        self._quote(query, sequence, request)
        is_v4 = len(request.source) == 4
        return SendDatagram(
            Ping(
                query.number,
                4 if is_v4 else 6,
                query.host,
                request.hop_limit - 1,
                not (is_v4 and request.raw[6] & _DONT_FRAGMENT),
                sequence,
                payload,
            )
        )

    def on_pong(self, pong: Pong, now: float) -> Order:
        """The far end has received a reply: the application gets it, unless the query is over."""
        query = self._by_number.get(pong.query)
        if query is None:
            return _LATE
        source, identifier, destination = query.key
        sender = _address(pong.source, query)
        if sender is None or len(pong.payload) > packet.max_payload(destination):
            return _LATE
        self._use(query, now)
        # The gate is a router on the way back, too; but a packet that has arrived has arrived.
        hops = max(1, pong.hop_limit - 1)
        reply = pong.sequence, pong.payload
        return answer(packet.echo_reply(sender, source, identifier, *reply, hop_limit=hops))

    def on_unanswered(self, error: Unanswered) -> Order:
        """The far end has received an ICMP error: the application gets it, about its own packet."""
        query = self._by_number.get(error.query)
        quote = self._quotes.get((error.query, error.sequence))
        if query is None or quote is None:
            return _LATE
        size = len(query.key[0])
        router = _address(error.router, query) if error.router else GATEWAYS[size]
        if router is None or error.kind not in _ERRORS[size]:
            return _LATE
        return answer(packet.icmp_error(quote, error.kind, error.code, error.mtu, router))

    def expire(self, now: float) -> None:
        """Forget queries that are idle."""
        for query in list(self._by_key.values()):
            if now - query.last > IDLE_S:
                self._forget(query, now)

    def _begin(self, key: _Key, now: float) -> _Query | None:
        target = self._names.target(key[2])
        if target is None:
            return None
        if len(self._by_key) >= self._max_queries:
            self._forget(next(iter(self._by_key.values())), now)
        host, name = target
        query = _Query(self._next, key, host, name, now)
        self._next += 1
        self._by_key[key] = self._by_number[query.number] = query
        if name is not None:
            self._names.pin(name)
        return query

    def _use(self, query: _Query, now: float) -> None:
        """Note a request or a reply: the table is in the order of the last one."""
        query.last = now
        self._by_key.move_to_end(query.key)

    def _quote(self, query: _Query, sequence: int, request: Packet) -> None:
        place = query.number, sequence
        self._quotes.pop(place, None)
        if len(self._quotes) >= self._max_quotes:
            self._quotes.popitem(last=False)
        self._quotes[place] = packet.quotation(request)

    def _forget(self, query: _Query, now: float) -> None:
        del self._by_key[query.key]
        del self._by_number[query.number]
        if query.name is not None:
            self._names.unpin(query.name, now)


def _address(host: str, query: _Query) -> bytes | None:
    """Return the address that `host` has for a query, None if it has none in its family."""
    destination = query.key[2]
    return destination if host == query.host else address_of(host, destination)
