"""The event loop of the gate: one thread, one epoll, and what is to be done for each descriptor.

Theory of operation
-------------------
Packets are forwarded between the two devices (`packet_path`), or lead to orders, as messages of the
client do (`shim.gate.router`), which are carried out at once (`executor`). Accepted connections
are passed on or served (`acceptor`, `dns_tcp`). Every `TICK_S` whatever has expired is ended.

A gate that follows one that was killed first hears from the client which flows there are, at most
for `LEARN_S`. Until then it touches nothing else: packets wait in the devices, connections in the
listener. Segments of flows that it does not know are passed on like all others, so that the kernel
of the flow namespace, which does know, answers them.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn

from shim.gate.io import acceptor, datagram_link, dns_tcp, executor, packet_path, tap
from shim.gate.io.acceptor import Acceptor
from shim.gate.io.datagram_link import DatagramLink
from shim.gate.io.dns_tcp import DnsStreams
from shim.gate.io.executor import Executor
from shim.gate.io.packet_path import Forwarder
from shim.gate.io.tap import Tap
from shim.gate.resolver import Names, Stream
from shim.gate.router import Router
from shim.protocol.gate import Configure, Configured, Copy, DropReason, Started
from shim.protocol.link import Link, Message, ViolationError

SYSCALLS: Final = frozenset({"epoll_create1", "epoll_ctl", "epoll_wait"}).union(
    acceptor.SYSCALLS,
    datagram_link.SYSCALLS,
    dns_tcp.SYSCALLS,
    executor.SYSCALLS,
    packet_path.SYSCALLS,
    tap.SYSCALLS,
)

TICK_S: Final = 1.0
LEARN_S: Final = 2.0


class Gate:
    """A gate over given descriptors. It opens none itself, except its epoll."""

    def __init__(
        self,
        capture: int,
        flow: int,
        listener: socket.socket,
        client: Link,
        names: Names,
        generation: int,
    ) -> None:
        self._client = client
        self._names = names
        self._generation = generation
        self._router = Router(names, generation)
        self._poll = select.epoll()
        self._tap = Tap(names)
        dropped: Counter[DropReason] = Counter()
        self._datagrams = DatagramLink(self._poll, self._on_datagram, dropped)
        self._streams = DnsStreams(self._poll, self._on_stream_query)
        self._executor = Executor(
            capture, flow, client, self._datagrams, self._streams, self._tap, self._router, dropped
        )
        self._acceptor = Acceptor(self._poll, listener, self._streams, self._executor)
        forward = Forwarder(capture, flow, self._datagrams, self._tap, dropped, self._on_packet)
        self._handlers: dict[int, Callable[[], None]] = {
            capture: forward.on_capture,
            flow: forward.on_flow,
            listener.fileno(): self._on_accept,
            client.fileno(): self._on_client,
        }

    def run(self) -> NoReturn:
        """Serve until the client goes. Raises LinkClosedError, ViolationError."""
        handlers, poll = self._handlers, self._poll
        self._learn()
        for fd in handlers:
            poll.register(fd, select.EPOLLIN)
        next_tick = time.monotonic() + TICK_S
        while True:
            for fd, _ in poll.poll(TICK_S):
                handler = handlers.get(fd)
                if handler is not None:
                    handler()
                elif fd == self._datagrams.fd:
                    self._datagrams.on_event()
                elif fd in self._streams:
                    self._streams.on_event(fd, time.monotonic())
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._on_tick(time.monotonic())

    def _learn(self) -> None:
        """Announce the gate to the client, and receive the flows of the gates before."""
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

    def _on_packet(self, framed: bytes) -> None:
        self._executor.execute(self._router.on_packet(framed, time.monotonic()))

    def _on_datagram(self, message: Message) -> None:
        self._executor.execute(self._router.on_datagram(message, time.monotonic()))

    def _on_stream_query(self, wire: bytes, server: bytes, number: int) -> None:
        asker = Stream(server, number)
        self._executor.execute(self._router.on_query(wire, asker, time.monotonic()))

    def _on_accept(self) -> None:
        self._acceptor.on_event(time.monotonic())

    def _on_client(self) -> None:
        received = self._client.receive()
        if received is not None:
            self._on_message(*received)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Configure():
                self._configure(message, fds[0])
            case Copy():
                self._tap.open(fds[0])
            case _:
                self._executor.execute(self._router.on_message(message, time.monotonic()))

    def _configure(self, settings: Configure, datagrams: int) -> None:
        self._datagrams.attach(datagrams)
        try:
            self._names.configure(settings)
        except ValueError as error:
            raise ViolationError("not a name") from error
        self._client.send(Configured())

    def _on_tick(self, now: float) -> None:
        self._acceptor.resume()
        self._executor.send_late()
        self._executor.execute(self._router.expire(now))
        self._streams.expire(now)
        self._executor.report()
