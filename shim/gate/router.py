"""The gate as a router: leads packets and messages to the decider that they concern. Pure.

Theory of operation
-------------------
Everything that is not forwarded verbatim comes here: the first packet of a flow, datagrams, DNS,
ICMP, fragments; and every message of the client. Orders come out (`shim.gate.orders`).

The gate is the first router on every way but that to its own addresses. So it answers a packet
whose hop limit is used up (RFC 1812 §5.3.1), and one of a transport protocol that it does not
forward. It answers no ICMP error, and nothing that was not sent to one host (RFC 1122 §3.2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from shim.gate.associations import Associations
from shim.gate.echo import Echo
from shim.gate.flows import Flows
from shim.gate.orders import Drop, Notify, Order, SendClient, WriteFlow, answer
from shim.gate.resolver import Asker, Datagram, Names
from shim.gate.targets import GATEWAYS, is_gateway
from shim.gate.wire import packet, tun, udp
from shim.gate.wire.fast_path import DNS_PORT
from shim.gate.wire.fragmentation import PathMtuCache
from shim.gate.wire.packet import FlowKey, Packet, Unreachable
from shim.gate.wire.reassembly import Fragments
from shim.protocol.datagrams import Deliver, Pong, Unanswered, Undeliverable
from shim.protocol.gate import (
    Accepted,
    Adopt,
    Cancel,
    Closed,
    DropReason,
    Forward,
    Forwarded,
    LookedUp,
    Lookup,
    Open,
    Opened,
    PoolWanted,
    Refused,
)
from shim.protocol.link import Message

_SUMMED: Final = frozenset({packet.TCP, packet.ICMP, packet.ICMPV6})
"""Whose payload may be summed here; UDP's is where it is looked at (`shim.gate.associations`)."""

_SYN_MASK: Final = packet.SYN | packet.ACK | packet.RST | packet.FIN


class Router:
    """The deciders of a gate."""

    def __init__(self, names: Names, generation: int) -> None:
        self._names = names
        self._flows = Flows(names, is_local=_is_dns, generation=generation)
        self._echo = Echo(names, generation)
        self._associations = Associations(names, generation=generation)
        self._fragments = Fragments()
        self.path_mtus = PathMtuCache()
        """By which a packet for the capture TUN is cut (`PathMtuCache.cut`)."""

    def on_packet(self, framed: bytes, now: float) -> Iterable[Order]:
        """An application has sent a packet, which comes behind its virtio header."""
        read = packet.read(framed)
        if read is DropReason.FRAGMENT:
            return self._on_fragment(framed, now)
        if isinstance(read, DropReason):
            return (Drop(read),)
        if not read.is_to_one_host:
            return (Drop(DropReason.MULTICAST),)
        if read.protocol in _SUMMED and not packet.has_valid_checksum(read):
            return (Drop(DropReason.CHECKSUM),)
        if _is_expired(read):
            # Else the far end would seem to be where we are.
            return (answer(packet.time_exceeded(read, GATEWAYS[len(read.source)])),)
        if read.protocol == packet.UDP:
            return self._on_udp(read, now)
        if read.protocol == packet.TCP:
            return _one(self._on_tcp(read, framed, now))
        if read.protocol in (packet.ICMP, packet.ICMPV6):
            return _one(self._on_icmp(read, now))
        if read.protocol == packet.NO_NEXT_HEADER and len(read.source) == 16:
            return (Drop(DropReason.NO_NEXT_HEADER),)
        gateway = GATEWAYS[len(read.source)]
        return (answer(packet.unreachable(read, Unreachable.PROTOCOL, gateway)),)

    def on_query(self, wire: bytes, asker: Asker, now: float) -> Iterable[Order]:
        """An application has sent a DNS message to a resolver."""
        return _one(self._names.on_query(wire, asker, now))

    def on_accepted(self, key: FlowKey, connection: int) -> Order:
        """The kernel has accepted a connection, known by its descriptor."""
        return self._flows.on_accepted(key, connection)

    def on_message(self, message: Message, now: float) -> Iterable[Order]:
        """The client has sent a message that carries no descriptor."""
        match message:
            case Opened(flow):
                return _one(self._flows.on_opened(flow, now))
            case Refused(flow, reason):
                return _one(self._flows.on_refused(flow, reason, now))
            case Adopt(known):
                return [
                    order
                    for each in known
                    if (order := self._flows.adopt(each.flow, each.key, now, each.is_accepted))
                ]
            case Closed(flows):
                for flow in flows:
                    self._flows.on_closed(flow, now)
            case LookedUp():
                return _one(self._names.on_looked_up(message, now))
            case Forwarded():
                return _one(self._names.on_forwarded(message))
            case PoolWanted():
                return (SendClient(self._names.on_pool_wanted(message, now)),)
        return ()

    def on_datagram(self, message: Message, now: float) -> Iterable[Order]:
        """The client has sent a message on the link for datagrams."""
        match message:
            case Deliver():
                return (self._associations.on_deliver(message, now),)
            case Undeliverable():
                return (self._associations.on_undeliverable(message),)
            case Pong():
                return (self._echo.on_pong(message, now),)
            case Unanswered():
                return (self._echo.on_unanswered(message),)
        return ()

    def on_unsent(self, message: Message, now: float) -> Iterable[Order]:
        """A message was not sent, as the client does not read."""
        match message:
            case Open(flow):
                self._flows.on_closed(flow, now)
                return (Drop(DropReason.CLIENT),)
            case Accepted(flow):
                self._flows.on_closed(flow, now)
                return (Drop(DropReason.CLIENT), Notify(Cancel(flow)))
            case Lookup() | Forward():
                return _one(self._names.on_unsent(message.query, now))
        return ()

    def expire(self, now: float) -> Iterator[Order]:
        """End what has waited, or has been idle, for too long."""
        yield from self._flows.expire(now)
        yield from self._associations.expire(now)
        if incomplete := self._fragments.expire(now):
            yield Drop(DropReason.FRAGMENT, incomplete)
        self.path_mtus.expire(now)
        yield from self._names.expire(now)
        self._echo.expire(now)

    def _on_fragment(self, framed: bytes, now: float) -> Iterable[Order]:
        whole = self._fragments.add(framed[tun.VNET_HEADER_BYTES :], now)
        if isinstance(whole, DropReason):
            return (Drop(whole),)
        return () if whole is None else self.on_packet(tun.NO_OFFLOAD + whole, now)

    def _on_tcp(self, segment: Packet, framed: bytes, now: float) -> Order | None:
        if segment.flags & _SYN_MASK == packet.SYN:
            return self._flows.on_syn(segment, now)
        if segment.flags & packet.SYN and not segment.flags & packet.ACK:
            return Drop(DropReason.FLAGS)
        return WriteFlow(framed)

    def _on_udp(self, sent: Packet, now: float) -> Iterable[Order]:
        if sent.destination_port != DNS_PORT:
            return self._associations.on_datagram(sent, now)
        if not udp.has_good_checksum(sent):
            return (Drop(DropReason.CHECKSUM),)
        ports = (sent.destination_port, sent.source_port)
        return self.on_query(sent.datagram, Datagram(sent.destination, sent.source, ports), now)

    def _on_icmp(self, message: Packet, now: float) -> Order | None:
        if self.path_mtus.on_icmp(message, now):
            return None
        if message.is_echo_request:
            return self._echo.on_request(message, now)
        return Drop(DropReason.ICMP)


def _one(order: Order | None) -> tuple[Order, ...]:
    return () if order is None else (order,)


def _is_expired(read: Packet) -> bool:
    """Whether the packet may pass no router, and an ICMP error may say so."""
    return read.hop_limit <= 1 and not is_gateway(read.destination) and not read.is_icmp_answer


def _is_dns(syn: Packet) -> bool:
    return syn.destination_port == DNS_PORT
