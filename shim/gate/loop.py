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
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NoReturn

from dns import framing
from shim.gate import packet, tun
from shim.gate.flows import Ask, Flows, GiveUp, Order, Reject, Release
from shim.gate.names import Names
from shim.gate.packet import Packet, Unreachable
from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.gate import (
    Accepted,
    Adopt,
    Cancel,
    Closed,
    Configure,
    Configured,
    Forwarded,
    LookedUp,
    Open,
    Opened,
    Reason,
    Refused,
    Started,
)
from shim.protocol.link import Link, Message, ViolationError

# fmt: off
SYSCALLS: Final = frozenset({
    "accept4", "epoll_create1", "epoll_ctl", "epoll_wait", "getsockname", "ioctl", "readv",
    "recvfrom", "sendto", "setsockopt", "write",
})
# fmt: on

BURST: Final = 64
LARGE_BYTES: Final = 16384
TICK_S: Final = 1.0
LEARN_S: Final = 2.0
MAX_DNS_STREAMS: Final = 256
DNS_STREAM_IDLE_S: Final = 30.0

_HEADER: Final = tun.VNET_HEADER_BYTES
_GATEWAY4: Final = ip_address(GATEWAY4).packed
_GATEWAY6: Final = ip_address(GATEWAY6).packed
_DNS_PORT: Final = 53


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
        self._streams: dict[int, _DnsStream] = {}
        self._is_full = False
        self._poll = select.epoll()
        self._buffer = bytearray(tun.READ_BYTES)
        self.counters: Counter[str] = Counter()
        """Packets that were dropped, by reason."""

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
                elif fd in self._streams:
                    self._on_stream(fd)
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
        capture, flow, buffer = self._capture, self._flow, self._buffer
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(capture, (buffer,))
            except BlockingIOError:
                return
            if _is_segment_of_flow(buffer, size):
                try:
                    os.write(flow, view[:size])
                except OSError:
                    self.counters["flow-full"] += 1
            else:
                self._on_slow(bytes(view[:size]))
            if size < LARGE_BYTES:
                return

    def _on_flow(self) -> None:
        capture, flow, buffer = self._capture, self._flow, self._buffer
        view = memoryview(buffer)
        for _ in range(BURST):
            try:
                size = os.readv(flow, (buffer,))
            except BlockingIOError:
                return
            try:
                os.write(capture, view[:size])
            except OSError:
                self.counters["capture-full"] += 1
            if size < LARGE_BYTES:
                return

    def _on_slow(self, framed: bytes) -> None:
        read = packet.read(framed)
        if isinstance(read, str):
            self.counters[read] += 1
        elif not read.is_to_one_host:
            self.counters["multicast"] += 1
        elif read.protocol == packet.TCP:
            self._on_tcp(read, framed)
        elif read.protocol == packet.UDP:
            self._on_udp(read)
        elif read.protocol in (packet.ICMP, packet.ICMPV6):
            self._on_icmp(read)
        else:
            self._answer(packet.unreachable(read, Unreachable.PROTOCOL, _GATEWAY4, _GATEWAY6))

    def _on_tcp(self, segment: Packet, framed: bytes) -> None:
        if segment.flags & (packet.SYN | packet.ACK | packet.RST | packet.FIN) == packet.SYN:
            self._obey(self._flows.on_syn(segment, time.monotonic()))
        elif segment.flags & packet.SYN and not segment.flags & packet.ACK:
            self.counters["flags"] += 1
        else:
            self._write(self._flow, framed)

    def _on_udp(self, query: Packet) -> None:
        if query.destination_port != _DNS_PORT:
            self._answer(packet.unreachable(query, Unreachable.PORT, _GATEWAY4, _GATEWAY6))
            return

        def reply(wire: bytes) -> None:
            ports = (query.destination_port, query.source_port)
            self._answer(packet.datagram(query.destination, query.source, ports, wire))

        self._on_query(query.datagram, query.destination, over_tcp=False, reply=reply)

    def _on_icmp(self, message: Packet) -> None:
        kind = message.raw[message.transport]
        if kind in (8, 128):
            code = Unreachable.ADMINISTRATIVELY_PROHIBITED
            self._answer(packet.unreachable(message, code, _GATEWAY4, _GATEWAY6))
        else:
            # RFC 1122 §3.2.2: never an error about an error.
            self.counters["icmp"] += 1

    def _on_query(
        self, wire: bytes, server: bytes, *, over_tcp: bool, reply: Callable[[bytes], None]
    ) -> None:
        now = time.monotonic()
        question = self._names.on_query(wire, server, over_tcp=over_tcp, now=now, reply=reply)
        if question is not None and not self._client.send(question):
            self._names.on_unsent(question.query, now)

    def _on_accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except OSError as error:
            self.counters["accept"] += 1
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It stays readable: listening is for when the next tick finds room again.
                self._poll.modify(self._listener, 0)
                self._is_full = True
            return
        own = sock.getsockname()
        if own[1] == _DNS_PORT:
            self._add_stream(sock, _packed(own[0]))
            return
        key = packet.flow_key(_packed(peer[0]), _packed(own[0]), peer[1], own[1])
        number = self._flows.on_accepted(key)
        if number is None:
            _reset(sock)
        elif self._client.send(Accepted(number), (sock.fileno(),)):
            sock.close()
        else:
            self._flows.on_closed(number, time.monotonic())
            self.counters["client-full"] += 1
            _reset(sock)

    def _on_client(self) -> None:
        received = self._client.receive()
        if received is not None:
            self._on_message(received[0])

    def _on_message(self, message: Message) -> None:
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
            case Configure():
                try:
                    self._names.configure(message)
                except ValueError as error:
                    raise ViolationError("not a name") from error
                self._client.send(Configured())

    def _on_tick(self) -> None:
        now = time.monotonic()
        if self._is_full:
            self._poll.modify(self._listener, select.EPOLLIN)
            self._is_full = False
        for order in self._flows.expire(now):
            self._obey(order)
        self._names.expire(now)
        for fd, stream in list(self._streams.items()):
            if now - stream.last > DNS_STREAM_IDLE_S:
                self._drop_stream(fd)

    def _obey(self, order: Order | None) -> None:
        match order:
            case Ask(flow, key, host, port):
                if not self._client.send(Open(flow, key, host, port)):
                    self._flows.on_closed(flow, time.monotonic())
                    self.counters["client-full"] += 1
            case Release(syn):
                self._write(self._flow, syn.offload + syn.raw)
            case Reject(syn, reason):
                self._reject(syn, reason)
            case GiveUp(flow):
                self._client.send(Cancel(flow))

    def _reject(self, syn: Packet, reason: Reason) -> None:
        if reason is Reason.REFUSED:
            self._answer(packet.reset(syn))
        elif reason in packet.UNREACHABLE_FOR:
            code = packet.UNREACHABLE_FOR[reason]
            self._answer(packet.unreachable(syn, code, _GATEWAY4, _GATEWAY6))

    def _answer(self, raw: bytes) -> None:
        self._write(self._capture, tun.NO_OFFLOAD + raw)

    def _write(self, device: int, framed: bytes) -> None:
        try:
            os.write(device, framed)
        except OSError:
            self.counters["device"] += 1

    def _add_stream(self, sock: socket.socket, server: bytes) -> None:
        if len(self._streams) >= MAX_DNS_STREAMS:
            idlest = min(self._streams, key=lambda fd: self._streams[fd].last)
            self._drop_stream(idlest)
        sock.setblocking(False)
        self._streams[sock.fileno()] = _DnsStream(sock, server, time.monotonic())
        self._poll.register(sock, select.EPOLLIN)

    def _on_stream(self, fd: int) -> None:
        stream = self._streams[fd]
        try:
            messages = stream.read(time.monotonic())
        except (OSError, ValueError):
            self._drop_stream(fd)
            return
        for message in messages:
            self._on_query(message, stream.server, over_tcp=True, reply=stream.reply)

    def _drop_stream(self, fd: int) -> None:
        stream = self._streams.pop(fd)
        self._poll.unregister(fd)
        stream.close()


class _DnsStream:
    """One connection to a resolver (RFC 7766). A peer that does not read its answers loses them."""

    def __init__(self, sock: socket.socket, server: bytes, now: float) -> None:
        self._sock: socket.socket | None = sock
        self._framing = framing.Framing()
        self.server = server
        self.last = now

    def read(self, now: float) -> list[bytes]:
        """Return the complete messages. Raises OSError or ValueError at the end."""
        if self._sock is None:
            return []
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionResetError
        self.last = now
        return self._framing.feed(data)

    def reply(self, wire: bytes) -> None:
        """Send an answer, if the peer is still there and has room for it."""
        if self._sock is not None:
            framed = framing.frame(wire)
            with contextlib.suppress(OSError):
                if self._sock.send(framed) == len(framed):
                    return
            self.close()

    def close(self) -> None:
        """Close the connection; answers that come later are dropped."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _is_segment_of_flow(buffer: bytearray, size: int) -> bool:
    """Whether this is plain TCP without SYN: unfragmented, no IPv6 extension header."""
    version = buffer[_HEADER] >> 4
    if version == 4:
        if (
            size < _HEADER + 40
            or buffer[_HEADER + 9] != packet.TCP
            or buffer[_HEADER + 6] & 0x3F
            or buffer[_HEADER + 7]
        ):
            return False
        flags = _HEADER + (buffer[_HEADER] & 0x0F) * 4 + 13
    elif version == 6:
        if size < _HEADER + 60 or buffer[_HEADER + 6] != packet.TCP:
            return False
        flags = _HEADER + 40 + 13
    else:
        return False
    return flags < size and not buffer[flags] & packet.SYN


def _is_dns(syn: Packet) -> bool:
    return syn.destination_port == _DNS_PORT


def _packed(host: str) -> bytes:
    """Return the address of a dual-stack socket; IPv4 comes mapped (RFC 4291 §2.5.5.2)."""
    address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return address[12:] if address.startswith(b"\0" * 10 + b"\xff\xff") else address


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
