"""The gate's only I/O: moves packets between the two TUN devices and messages on the links.

Theory of operation
-------------------
One thread, one epoll. A packet from the capture TUN that is TCP without SYN is passed on to the
flow TUN as it is; everything from the flow TUN is passed on to the capture TUN as it is. With
offloads one read is up to 64 KiB, and no byte of it is copied or summed here. All that is left,
the first packet of a flow, DNS, ICMP, takes the slow path through `packet.read`.

The kernel of the flow namespace ends the flows; an accepted socket is sent to the client and
closed here. Connections to port 53 are served here.

A gate that follows one that was killed first hears from the client which flows there are, at most
for `LEARN_S`. Until then it touches nothing else: packets wait in the devices, connections in the
listener. Segments of flows that it does not know are passed on like all others, so that the kernel
of the flow namespace, which does know, answers them.

Limits: up to `BURST` packets per device and wake-up, so that one direction cannot starve the
other, and no further once they are small: then there is rarely another one, and asking costs as
much as being told. What a device does not take is dropped, as on any wire, and TCP sends it again.
So is a datagram, without a look at it, while the client reads none: a flood of them costs little,
and leaves room for others in the queue of the device.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NoReturn

from shim.gate.associations import Answer, Associations
from shim.gate.echo import Echo
from shim.gate.flows import Ask, Flows, GiveUp, Order, Reject, Release
from shim.gate.io import datagram_link, dns_tcp, tap
from shim.gate.io.datagram_link import DatagramLink
from shim.gate.io.dns_tcp import DnsStreams, Reply
from shim.gate.io.tap import Tap
from shim.gate.resolver import Names
from shim.gate.wire import packet, tun, udp
from shim.gate.wire.fragmentation import PathLimit
from shim.gate.wire.packet import Packet, Unreachable
from shim.gate.wire.reassembly import Fragments
from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.datagrams import (
    Deliver,
    Forget,
    Ping,
    Pong,
    Send,
    Unanswered,
    Undeliverable,
)
from shim.protocol.gate import (
    Accepted,
    Adopt,
    Cancel,
    Closed,
    Configure,
    Configured,
    Copy,
    DropCount,
    Dropped,
    DropReason,
    Forwarded,
    LookedUp,
    Open,
    Opened,
    PoolWanted,
    Reason,
    Refused,
    Started,
)
from shim.protocol.link import Link, Message, ViolationError

# fmt: off
SYSCALLS: Final = frozenset({
    "accept4", "epoll_create1", "epoll_ctl", "epoll_wait", "getsockname", "ioctl", "readv",
    "recvfrom", "sendto", "setsockopt", "write",
}) | datagram_link.SYSCALLS | dns_tcp.SYSCALLS | tap.SYSCALLS
# fmt: on

BURST: Final = 64
LARGE_BYTES: Final = 16384
TICK_S: Final = 1.0
LEARN_S: Final = 2.0

_HEADER: Final = tun.VNET_HEADER_BYTES
_GATEWAY4: Final = ip_address(GATEWAY4).packed
_GATEWAY6: Final = ip_address(GATEWAY6).packed
_PLAIN_IPV4: Final = 0x45
_DNS_PORT: Final = 53
_DNS_PORT_OCTETS: Final = _DNS_PORT.to_bytes(2)
_SUMMED: Final = frozenset({packet.TCP, packet.ICMP, packet.ICMPV6})
"""Whose payload may be summed here; UDP's is where it is looked at (`shim.gate.associations`)."""


class Gate:
    """A gate over descriptors that were made by others. It opens nothing itself."""

    def __init__(
        self,
        capture: int,
        flow: int,
        listener: socket.socket,
        client: Link,
        names: Names,
        generation: int,
    ) -> None:
        self._capture = capture
        self._flow = flow
        self._listener = listener
        self._client = client
        self._names = names
        self._generation = generation
        self._flows = Flows(names, is_local=_is_dns, generation=generation)
        self._echo = Echo(names, generation)
        self._associations = Associations(names, generation=generation)
        self._fragments = Fragments()
        self._is_full = False
        self._narrow = PathLimit()
        self._poll = select.epoll()
        self._buffer = bytearray(tun.READ_BYTES)
        self._dropped: Counter[DropReason] = Counter()
        self._given_up: deque[int] = deque()
        self._streams = DnsStreams(self._poll, self._on_stream_query)
        self._datagrams = DatagramLink(self._poll, self._on_datagram, self._dropped)
        self._tap = Tap(names)

    def run(self) -> NoReturn:
        """Serve until the client goes. Raises LinkClosedError, ViolationError."""
        handlers: dict[int, Callable[[], None]] = {
            self._capture: self._on_capture,
            self._flow: self._on_flow,
            self._listener.fileno(): self._on_accept,
            self._client.fileno(): self._on_client,
        }
        self._learn()
        for fd in handlers:
            self._poll.register(fd, select.EPOLLIN)
        next_tick = time.monotonic() + TICK_S
        while True:
            for fd, _ in self._poll.poll(TICK_S):
                handler = handlers.get(fd)
                if handler is not None:
                    handler()
                elif fd == self._datagrams.fd:
                    self._datagrams.on_event()
                elif fd in self._streams:
                    self._streams.on_event(fd, time.monotonic())
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._on_tick()

    def _learn(self) -> None:
        """Introduce the gate to the client, and hear of the flows that there are."""
        client = self._client.fileno()
        self._poll.register(client, select.EPOLLOUT)
        while not self._client.send(Started(self._generation)):
            self._poll.poll()
        self._poll.modify(client, select.EPOLLIN)
        deadline = time.monotonic() + (0.0 if self._generation == 1 else LEARN_S)
        while not self._names.is_configured and (left := deadline - time.monotonic()) > 0:
            if self._poll.poll(left):
                self._on_client()
        self._poll.unregister(client)

    def _on_capture(self) -> None:
        capture, flow, buffer, tap = self._capture, self._flow, self._buffer, self._tap
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(capture, (buffer,))
            except BlockingIOError:
                return
            if tap.is_on:
                tap.copy(view[:size], is_outgoing=True)
            if _is_segment_of_flow(buffer, size):
                try:
                    os.write(flow, view[:size])
                except OSError:
                    self._dropped[DropReason.FLOW_DEVICE] += 1
            elif self._datagrams.is_full and _is_datagram(buffer, size):
                # Read on: the device's queue holds packets of others, too.
                self._dropped[DropReason.DATAGRAM_LINK] += 1
                continue
            else:
                self._on_slow(bytes(view[:size]))
            if size < LARGE_BYTES:
                return

    def _on_flow(self) -> None:
        capture, flow, buffer, tap = self._capture, self._flow, self._buffer, self._tap
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(flow, (buffer,))
            except BlockingIOError:
                return
            try:
                os.write(capture, view[:size])
            except OSError:
                self._dropped[DropReason.CAPTURE_DEVICE] += 1
            else:
                if tap.is_on:
                    tap.copy(view[:size], is_outgoing=False)
            if size < LARGE_BYTES:
                return

    def _on_slow(self, framed: bytes) -> None:
        read = packet.read(framed)
        if read is DropReason.FRAGMENT:
            self._on_fragment(framed)
        elif isinstance(read, DropReason):
            self._dropped[read] += 1
        elif not read.is_to_one_host:
            self._dropped[DropReason.MULTICAST] += 1
        elif read.protocol in _SUMMED and not packet.has_valid_checksum(read):
            self._dropped[DropReason.CHECKSUM] += 1
        elif _is_expired(read):
            # Else the far end would seem to be where we are.
            self._answer(packet.time_exceeded(read, _GATEWAY4, _GATEWAY6))
        elif read.protocol == packet.TCP:
            self._on_tcp(read, framed)
        elif read.protocol == packet.UDP:
            self._on_udp(read)
        elif read.protocol in (packet.ICMP, packet.ICMPV6):
            self._on_icmp(read)
        elif read.protocol == packet.NO_NEXT_HEADER and len(read.source) == 16:
            self._dropped[DropReason.NO_NEXT_HEADER] += 1
        else:
            self._answer(packet.unreachable(read, Unreachable.PROTOCOL, _GATEWAY4, _GATEWAY6))

    def _on_fragment(self, framed: bytes) -> None:
        raw = framed[len(tun.NO_OFFLOAD) :]
        whole = self._fragments.add(raw, time.monotonic())
        if isinstance(whole, DropReason):
            self._dropped[whole] += 1
        elif whole is not None:
            self._on_slow(tun.NO_OFFLOAD + whole)

    def _on_tcp(self, segment: Packet, framed: bytes) -> None:
        if segment.flags & (packet.SYN | packet.ACK | packet.RST | packet.FIN) == packet.SYN:
            self._obey(self._flows.on_syn(segment, time.monotonic()))
        elif segment.flags & packet.SYN and not segment.flags & packet.ACK:
            self._dropped[DropReason.FLAGS] += 1
        else:
            self._write(self._flow, framed)

    def _on_udp(self, query: Packet) -> None:
        if query.destination_port != _DNS_PORT:
            for order in self._associations.on_datagram(query, time.monotonic()):
                self._obey_datagram(order)
            return
        if not udp.has_good_checksum(query):
            self._dropped[DropReason.CHECKSUM] += 1
            return

        # Not `query` itself: an answer may be long in coming, and a packet is up to 64 KiB.
        ends = query.destination, query.source, (query.destination_port, query.source_port)

        def reply(wire: bytes) -> None:
            self._answer(packet.datagram(*ends, wire))

        self._on_query(query.datagram, query.destination, over_tcp=False, reply=reply)

    def _on_icmp(self, message: Packet) -> None:
        if self._narrow.on_icmp(message, time.monotonic()):
            return
        if not message.is_echo_request:
            # RFC 1122 §3.2.2: never an error about an error.
            self._dropped[DropReason.ICMP] += 1
            return
        order = self._echo.on_request(message, time.monotonic())
        if isinstance(order, Ping):
            self._datagrams.send(order)
        else:
            self._answer(order)

    def _on_query(
        self, wire: bytes, server: bytes, *, over_tcp: bool, reply: Callable[[bytes], None]
    ) -> None:
        now = time.monotonic()
        question = self._names.on_query(wire, server, over_tcp=over_tcp, now=now, reply=reply)
        if question is not None and not self._client.send(question):
            self._names.on_unsent(question.query, now)

    def _on_stream_query(self, wire: bytes, server: bytes, reply: Reply) -> None:
        self._on_query(wire, server, over_tcp=True, reply=reply)

    def _on_accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except OSError as error:
            self._dropped[DropReason.DESCRIPTORS] += 1
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It stays readable: listening is for when the next tick finds room again.
                self._poll.modify(self._listener, 0)
                self._is_full = True
            return
        own = sock.getsockname()
        if own[1] == _DNS_PORT:
            self._streams.add(sock, _packed(own[0]), time.monotonic())
            return
        key = packet.flow_key(_packed(peer[0]), _packed(own[0]), peer[1], own[1])
        number = self._flows.on_accepted(key)
        if number is None:
            _reset(sock)
        elif self._client.send(Accepted(number), (sock.fileno(),)):
            sock.close()
        else:
            self._flows.on_closed(number, time.monotonic())
            self._dropped[DropReason.CLIENT] += 1
            self._give_up(number)
            _reset(sock)

    def _on_client(self) -> None:
        received = self._client.receive()
        if received is not None:
            self._on_message(*received)

    def _on_datagram(self, message: Message) -> None:
        """The client has a datagram for an application, or says what became of one."""
        match message:
            case Pong():
                self._pass(self._echo.on_pong(message, time.monotonic()))
            case Unanswered():
                self._pass(self._echo.on_unanswered(message))
            case Deliver():
                self._obey_datagram(self._associations.on_deliver(message, time.monotonic()))
            case Undeliverable():
                self._obey_datagram(self._associations.on_undeliverable(message))

    def _pass(self, raw: bytes | None) -> None:
        """Pass a packet on to the application, if there is one."""
        if raw is None:
            self._dropped[DropReason.LATE_ECHO] += 1
        else:
            self._answer(raw)

    def _obey_datagram(self, order: Answer | Send | Forget | None) -> None:
        match order:
            case Answer(framed):
                self._deliver(framed)
            case Send():
                self._datagrams.send(order)
            case Forget():
                self._datagrams.send_later(order)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        now = time.monotonic()
        match message:
            case Opened(flow):
                self._obey(self._flows.on_opened(flow, now))
            case Refused(flow, reason):
                self._obey(self._flows.on_refused(flow, reason, now))
            case Adopt(known):
                for each in known:
                    accepted = each.is_accepted
                    self._obey(self._flows.adopt(each.flow, each.key, now, is_accepted=accepted))
            case Closed(flows):
                for flow in flows:
                    self._flows.on_closed(flow, now)
            case LookedUp():
                self._names.on_looked_up(message, now)
            case Forwarded():
                self._names.on_forwarded(message)
            case PoolWanted():
                self._client.send(self._names.on_pool_wanted(message, now))
            case Configure():
                self._datagrams.attach(fds[0])
                try:
                    self._names.configure(message)
                except ValueError as error:
                    raise ViolationError("not a name") from error
                self._client.send(Configured())
            case Copy():
                self._tap.open(fds[0])

    def _on_tick(self) -> None:
        now = time.monotonic()
        if self._is_full:
            self._poll.modify(self._listener, select.EPOLLIN)
            self._is_full = False
        while self._given_up and self._client.send(Cancel(self._given_up[0])):
            self._given_up.popleft()
        for order in self._flows.expire(now):
            self._obey(order)
        for ended in self._associations.expire(now):
            self._obey_datagram(ended)
        self._dropped[DropReason.FRAGMENT] += self._fragments.expire(now)
        self._narrow.expire(now)
        self._names.expire(now)
        self._echo.expire(now)
        self._streams.expire(now)
        self._dropped += self._associations.lost
        self._associations.lost.clear()
        counts = tuple(DropCount(reason, packets) for reason, packets in self._dropped.items())
        if counts and self._client.send(Dropped(counts)):
            self._dropped.clear()

    def _obey(self, order: Order | DropReason | None) -> None:
        match order:
            case DropReason():
                self._dropped[order] += 1
            case Ask(flow, key, host, port):
                if not self._client.send(Open(flow, key, host, port)):
                    self._flows.on_closed(flow, time.monotonic())
                    self._dropped[DropReason.CLIENT] += 1
            case Release(syn):
                self._write(self._flow, syn.offload + syn.raw)
            case Reject(syn, reason):
                self._reject(syn, reason)
            case GiveUp(flow):
                self._give_up(flow)

    def _give_up(self, flow: int) -> None:
        """Have the client end a flow that it has opened or opens, now or when it reads again."""
        if not self._client.send(Cancel(flow)):
            self._given_up.append(flow)

    def _reject(self, syn: Packet, reason: Reason) -> None:
        if reason is Reason.REFUSED:
            self._answer(packet.reset(syn))
        elif reason in packet.UNREACHABLE_FOR:
            code = packet.UNREACHABLE_FOR[reason]
            self._answer(packet.unreachable(syn, code, _GATEWAY4, _GATEWAY6))

    def _answer(self, raw: bytes) -> None:
        self._deliver(tun.NO_OFFLOAD + raw)

    def _deliver(self, framed: bytes) -> None:
        for piece in self._narrow.cut(framed):
            self._write(self._capture, piece)

    def _write(self, device: int, framed: bytes) -> None:
        try:
            os.write(device, framed)
        except OSError:
            is_capture = device == self._capture
            self._dropped[DropReason.CAPTURE_DEVICE if is_capture else DropReason.FLOW_DEVICE] += 1
        else:
            if self._tap.is_on and device == self._capture:
                self._tap.copy(framed, is_outgoing=False)


def _is_segment_of_flow(buffer: bytearray, size: int) -> bool:
    """Whether this is plain TCP without SYN: unfragmented, no IPv6 extension header.

    A packet that may not pass a router is none: the gate is one.
    """
    version = buffer[_HEADER] >> 4
    if version == 4:
        if (
            size < _HEADER + 40
            or buffer[_HEADER + 8] <= 1
            or buffer[_HEADER + 9] != packet.TCP
            or buffer[_HEADER + 6] & 0x3F
            or buffer[_HEADER + 7]
        ):
            return False
        flags = _HEADER + (buffer[_HEADER] & 0x0F) * 4 + 13
    elif version == 6:
        if size < _HEADER + 60 or buffer[_HEADER + 7] <= 1 or buffer[_HEADER + 6] != packet.TCP:
            return False
        flags = _HEADER + 40 + 13
    else:
        return False
    return flags < size and not buffer[flags] & packet.SYN


def _is_datagram(buffer: bytearray, size: int) -> bool:
    """Whether this is plain UDP that is no question to us: no fragment, no option, no extension."""
    if buffer[_HEADER] == _PLAIN_IPV4:
        if buffer[_HEADER + 9] != packet.UDP or buffer[_HEADER + 6] & 0x3F or buffer[_HEADER + 7]:
            return False
        port = _HEADER + 22
    elif buffer[_HEADER] >> 4 == 6 and buffer[_HEADER + 6] == packet.UDP:
        port = _HEADER + 42
    else:
        return False
    return port + 2 <= size and buffer[port : port + 2] != _DNS_PORT_OCTETS


def _is_expired(read: Packet) -> bool:
    """Whether a router must answer that the packet goes no further (RFC 1812 §5.3.1).

    The gate is the first router of every way but that to its own addresses.
    """
    is_own = read.destination in (_GATEWAY4, _GATEWAY6)
    return read.hop_limit <= 1 and not is_own and not read.is_icmp_answer


def _is_dns(syn: Packet) -> bool:
    return syn.destination_port == _DNS_PORT


def _packed(host: str) -> bytes:
    """Return the address of a socket; IPv4 comes mapped (RFC 4291 §2.5.5.2) if it is dual-stack."""
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return address[12:] if address.startswith(b"\0" * 10 + b"\xff\xff") else address


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
