"""The one executor of the orders that the gate's deciders give (`shim.gate.orders`).

Nothing waits: a packet that a device does not take is dropped and counted, as on any wire. What the
client must not miss is kept until it reads again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shim.gate import orders
from shim.gate.io.datagram_link import DatagramLink
from shim.gate.io.dns_tcp import DnsStreams
from shim.gate.io.tap import Tap
from shim.gate.router import Router
from shim.protocol.datagrams import Forget
from shim.protocol.gate import Accepted, DropCount, Dropped, DropReason
from shim.protocol.link import Link, Message

SYSCALLS: Final = frozenset({"getsockname", "sendto", "setsockopt", "write"})

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all (socket(7)): close(2) sends a RST."""


@dataclass(slots=True)
class Executor:
    """Carries out orders, on two devices, two links and the connections to the resolver."""

    capture: int
    flow: int
    client: Link
    datagrams: DatagramLink
    streams: DnsStreams
    tap: Tap
    router: Router
    dropped: Counter[DropReason]
    """Packets that were dropped since the last report."""
    _late: deque[Message] = field(default_factory=deque)

    def execute(self, wanted: Iterable[orders.Order]) -> None:
        """Carry out orders, one after the other. Raises LinkClosedError."""
        for order in wanted:
            self._execute(order)

    def _execute(self, order: orders.Order) -> None:
        match order:
            case orders.WriteCapture(framed):
                self._write_capture(framed)
            case orders.SendDatagram(message):
                self.datagrams.send(message)
            case orders.WriteFlow(framed):
                self._write(self.flow, framed, DropReason.FLOW_DEVICE)
            case orders.SendClient(message):
                self._send(message)
            case orders.PassSocket(connection, flow):
                self._pass_socket(connection, flow)
            case orders.ResetSocket(connection):
                _reset(connection)
            case orders.ReplyStream(stream, wire):
                self.streams.reply(stream, wire)
            case orders.Notify(Forget() as message):
                self.datagrams.send_later(message)
            case orders.Notify(message):
                if not self.client.send(message):
                    self._late.append(message)
            case orders.Drop(reason, packets):
                self.dropped[reason] += packets

    def send_late(self) -> None:
        """Send notifications that the client had no room for, as far as it has room now."""
        while self._late and self.client.send(self._late[0]):
            self._late.popleft()

    def report(self) -> None:
        """Report what was dropped to the client, if anything was, and reset the counter."""
        counts = tuple(DropCount(reason, packets) for reason, packets in self.dropped.items())
        if counts and self.client.send(Dropped(counts)):
            self.dropped.clear()

    def _send(self, message: Message) -> None:
        if not self.client.send(message):
            self.execute(self.router.on_unsent(message, time.monotonic()))

    def _pass_socket(self, connection: int, flow: int) -> None:
        message = Accepted(flow)
        if self.client.send(message, (connection,)):
            os.close(connection)
        else:
            self.execute(self.router.on_unsent(message, time.monotonic()))
            _reset(connection)

    def _write_capture(self, framed: bytes) -> None:
        for piece in self.router.path_mtus.cut(framed):
            if self._write(self.capture, piece, DropReason.CAPTURE_DEVICE) and self.tap.is_on:
                self.tap.copy(piece, is_outgoing=False)

    def _write(self, device: int, framed: bytes, otherwise: DropReason) -> bool:
        try:
            os.write(device, framed)
        except OSError:
            self.dropped[otherwise] += 1
            return False
        return True


def _reset(connection: int) -> None:
    # Given a type, the kernel is not asked for it; the option is the same for both families.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, connection)
    with sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
