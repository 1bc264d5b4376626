"""The UDP associations of a gate, one for each local socket that sends (RFC 4787).

Theory of operation
-------------------
Pure: packets, messages and the time come in as arguments; orders come out.

An association is a local socket: the source address and port of a packet. It begins with the first
datagram to any destination, and everything that it sends is sent from one socket of the far end:
mapping is independent of the endpoint (RFC 4787 §4.1, REQ-1). So is filtering (§5, REQ-8):
a datagram from any sender is delivered, from the sender's own address. A host that was addressed by
a virtual address answers from that one; its name stays pinned.

It ends when nothing has been sent or delivered for `ONE_WAY_S`, or `TWO_WAY_S` once both were.
The first is shorter than the two minutes of REQ-5, since each holds a socket and a channel, and
most of them are one question and its answer, if there is one.

A datagram that did not arrive is reported as the ICMP error that the far end got, about the packet
that the application sent last to that destination. Of each of the last `MAX_QUOTES` destinations
the head of that packet is kept. ICMP errors that applications send are not passed on: what the
far end sent to a socket that is closed here is lost.

Hostile answers: the client cannot make the gate send from a virtual address that the association
has not used, nor from one that no packet may come from.

Bounds: `MAX_ASSOCIATIONS`; one more ends the one that has been one-way and idle for longest, or if
there is none, is not begun. `MAX_NAMES` names each; one more is unpinned, and no more answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Literal

from shim.gate.orders import Drop, Notify, Order, SendDatagram, WriteCapture, answer
from shim.gate.targets import GATEWAYS, Targets, address_of, is_gateway
from shim.gate.wire import packet, udp
from shim.gate.wire.packet import Packet, Unreachable
from shim.protocol.datagrams import (
    MAX_ASSOCIATIONS,
    MAX_PAYLOAD,
    Deliver,
    Forget,
    Send,
    Undeliverable,
)
from shim.protocol.gate import DropReason, first_number

ONE_WAY_S: Final = 60.0
TWO_WAY_S: Final = 300.0
MAX_NAMES: Final = 64
MAX_QUOTES: Final = 8192

_QUOTE_BYTES: Final = 128
_ERRORS: Final[dict[int, frozenset[int]]] = {4: frozenset({3, 11}), 16: frozenset({1, 2, 3})}
"""By the length of an address: unreachable, too big, time exceeded (RFC 792, RFC 4443)."""


@dataclass(slots=True)
class _Association:
    number: int
    source: bytes
    port: int
    last: float
    is_two_way: bool = False
    names: dict[str, bytes] = field(default_factory=dict)
    """The virtual address under which each name was used, the oldest first."""


class Associations:
    """All associations of a gate."""

    def __init__(
        self, names: Targets, *, generation: int = 1, max_associations: int = MAX_ASSOCIATIONS
    ) -> None:
        self._names = names
        self._max = max_associations
        self._by_socket: dict[tuple[bytes, int], _Association] = {}
        self._one_way: dict[int, _Association] = {}
        self._two_way: dict[int, _Association] = {}
        self._quotes: dict[tuple[int, bytes, int], bytes] = {}
        self._next = first_number(generation)
        self._ident = 0

    def __len__(self) -> int:
        return len(self._by_socket)

    def on_datagram(self, sent: Packet, now: float) -> Iterator[Order]:
        """An application has sent a datagram, which may pass a router."""
        target = self._names.target(sent.destination)
        if target is None or is_gateway(sent.destination):
            gateway = GATEWAYS[len(sent.source)]
            yield answer(packet.unreachable(sent, Unreachable.PORT, gateway))
            return
        payload = sent.datagram
        if len(payload) > MAX_PAYLOAD or not udp.has_good_checksum(sent):
            yield Drop(DropReason.CHECKSUM)
            return
        association = self._by_socket.get((sent.source, sent.source_port))
        if association is None:
            if len(self._by_socket) >= self._max:
                if not self._one_way:
                    yield Drop(DropReason.ASSOCIATION_LIMIT)
                    return
                yield self._end(next(iter(self._one_way.values())), now)
            association = self._begin(sent, now)
        self._use(association, now)
        host, name = target
        if name is not None:
            self._pin(association, name, sent.destination, now)
        self._quote(association, sent)
        family: Literal[4, 6] = 4 if len(sent.source) == 4 else 6
        yield SendDatagram(
            Send(
                association.number,
                family,
                host,
                sent.destination_port,
                sent.hop_limit - 1,
                udp.may_fragment(sent),
                payload,
            )
        )

    def on_deliver(self, message: Deliver, now: float) -> Order:
        """The far end has received a datagram from `message.host`."""
        association = self._find(message.association)
        source = association and self._source(association, message.host)
        if association is None or not source or source == association.source:
            return Drop(DropReason.LATE_DATAGRAM)
        if len(message.payload) > packet.max_payload(source):
            return Drop(DropReason.LENGTH)
        if not association.is_two_way:
            association.is_two_way = True
            del self._one_way[association.number]
        self._use(association, now)
        self._ident = (self._ident + 1) & 0xFFFF
        ports = (message.port, association.port)
        return WriteCapture(
            udp.framed(source, association.source, ports, message.payload, self._ident)
        )

    def on_undeliverable(self, message: Undeliverable) -> Order:
        """The far end has received an ICMP error about a datagram to `message.host`."""
        association = self._find(message.association)
        destination = association and self._address(association, message.host)
        if association is None or not destination:
            return Drop(DropReason.LATE_DATAGRAM)
        quote = self._quotes.get((association.number, destination, message.port))
        if quote is None or message.kind not in _ERRORS[len(destination)]:
            return Drop(DropReason.LATE_DATAGRAM)
        router = GATEWAYS[len(destination)]
        if message.router:
            router = self._source(association, message.router) or router
        error = message.kind, message.code, message.mtu
        return answer(packet.icmp_error(quote, *error, router))

    def expire(self, now: float) -> list[Order]:
        """End associations that have been idle for too long."""
        over = []
        for table, limit_s in ((self._one_way, ONE_WAY_S), (self._two_way, TWO_WAY_S)):
            for association in table.values():
                if now - association.last <= limit_s:
                    break
                over.append(association)
        return [self._end(association, now) for association in over]

    def _find(self, number: int) -> _Association | None:
        return self._two_way.get(number) or self._one_way.get(number)

    def _begin(self, sent: Packet, now: float) -> _Association:
        association = _Association(self._next, sent.source, sent.source_port, now)
        self._next += 1
        self._by_socket[sent.source, sent.source_port] = association
        return association

    def _end(self, association: _Association, now: float) -> Order:
        del self._by_socket[association.source, association.port]
        self._one_way.pop(association.number, None)
        self._two_way.pop(association.number, None)
        for name in association.names:
            self._names.unpin(name, now)
        return Notify(Forget(association.number))

    def _use(self, association: _Association, now: float) -> None:
        """Note a use: each table is in the order of the last use."""
        association.last = now
        table = self._two_way if association.is_two_way else self._one_way
        table.pop(association.number, None)
        table[association.number] = association

    def _pin(self, association: _Association, name: str, address: bytes, now: float) -> None:
        names = association.names
        if name not in names:
            if len(names) >= MAX_NAMES:
                oldest = next(iter(names))
                del names[oldest]
                self._names.unpin(oldest, now)
            self._names.pin(name)
        names[name] = address

    def _quote(self, association: _Association, sent: Packet) -> None:
        key = (association.number, sent.destination, sent.destination_port)
        self._quotes.pop(key, None)
        self._quotes[key] = sent.raw[:_QUOTE_BYTES]
        if len(self._quotes) > MAX_QUOTES:
            del self._quotes[next(iter(self._quotes))]

    def _address(self, association: _Association, host: str) -> bytes | None:
        """Return the address that `host` has for an association, None if it has none."""
        used = association.names.get(host)
        return used if used is not None else address_of(host, association.source)

    def _source(self, association: _Association, host: str) -> bytes | None:
        """Return the address from which a packet of `host` comes, None if none may."""
        if host in association.names:
            return association.names[host]
        address = self._address(association, host)
        if address is None or not _may_send(address) or self._names.is_virtual(address):
            return None
        return address


def _may_send(packed: bytes) -> bool:
    """Whether a packet may come from an address (RFC 1122 §3.2.1.3, RFC 4291 §2.5, §2.7)."""
    address = ip_address(packed)
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        return False
    return len(packed) == 16 or not (packed[0] == 0 or packed[0] >= 240)
