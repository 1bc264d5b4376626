"""One QUIC connection over UDP: drives a connection that does no I/O on the event loop.

Theory of operation
-------------------
A `StateMachine` is fed packets and the time; a `UdpConnection` asks it what to send, when to be
woken, and what happened, and is what the transport knows as an `engine.Connection`.

- Several packets are fed before the machine is asked what happened (`advance`), so that
  their acknowledgements share a packet and their data reaches the receiver in one piece.
- Writes are sent on the next turn of the loop: many small writes share packets. What is sent at
  one time is bounded by the stream's high-water mark and the machine's pacing.
- The timer is moved only to earlier times; when it fires too early it is set again. Most
  deadlines move later with every packet, so most packets touch no timer.
- `advance` looks at the machine's `termination`, which is known with the packet that brought it;
  the machine itself reports an end only after the closing period.
- During the closing period, packets that still arrive are answered with our CONNECTION_CLOSE
  again (RFC 9000, section 10.2.1): after the 1st, 2nd, 4th, 8th … of them.
- Liveness: a PING every `ping_interval_s`; a peer from which neither stream data nor the answer
  to a PING came for `dead_after_s` is dead. Only authenticated packets count.

Left out: stateless resets. A server that lost its state is noticed by its silence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from vpn.transport.base import SocketAddress
from vpn.transport.bind import plain_name
from vpn.transport.quic import engine
from vpn.transport.quic.config import KEY_UPDATE_PACKETS, Liveness
from vpn.transport.quic.engine import (
    ABORTED,
    NO_ERROR,
    ConnectionClosedError,
    Origin,
    Path,
    Termination,
)
from vpn.transport.quic.pacer import TIMER_RESOLUTION_S
from vpn.transport.quic.state_machine import Events, StateMachine
from vpn.transport.quic.udp_port import Datagram

MAX_CLOSE_ANSWERS = 8
INTERNAL_ERROR = 0x1  # RFC 9000, section 20.1
ENGINE_FAILED = Termination(Origin.TRANSPORT, INTERNAL_ERROR, "the QUIC engine failed")


class Owner(Protocol):
    """The holder of a connection's socket: a client, or a server with many connections."""

    def on_handshake(self, connection: UdpConnection) -> None:
        """The TLS handshake is complete."""
        ...

    def on_stream(self, connection: UdpConnection) -> None:
        """The peer has opened the stream: `attach` a receiver."""
        ...

    def on_end(self, connection: UdpConnection, termination: Termination) -> None:
        """The connection has ended; its closing period may last a little longer."""
        ...

    def on_gone(self, connection: UdpConnection) -> None:
        """The closing period is over too."""
        ...

    def on_connection_id(
        self, connection: UdpConnection, connection_id: bytes, *, is_valid: bool
    ) -> None:
        """The peer may (or may no longer) address the connection by this connection ID."""
        ...


class UdpConnection(engine.Connection, Events):
    """An `engine.Connection` that is driven by the packets and timers of an event loop."""

    def __init__(
        self,
        machine: StateMachine,
        owner: Owner,
        local: SocketAddress,
        send: Callable[[list[Datagram]], None],
        liveness: Liveness,
    ) -> None:
        self._machine = machine
        self._owner = owner
        self._local = local
        self._send = send
        self._liveness = liveness
        self._receiver: engine.Receiver | None = None
        self._loop = asyncio.get_running_loop()
        self._now = time.monotonic  # uvloop's own clock has milliseconds, and stands for a turn
        self._created_at = self._heard_at = self._now()
        self._watch = self._loop.call_later(liveness.ping_interval_s, self._on_watch)
        self._timer: asyncio.Handle | None = None
        self._wakes_at = 0.0
        self._due: float | None = None
        self._is_transmit_queued = False
        self._is_advancing = False
        self._is_handshaken = False
        self._termination: Termination | None = None
        self._is_stopped = False
        self._sent_packets = 0
        self._close_packets: list[Datagram] = []
        self._close_answers = 0
        self._received_when_closed = 0

    # engine.Connection.

    @property
    @override
    def peer_key(self) -> bytes | None:
        return self._machine.peer_key

    @property
    @override
    def path(self) -> Path:
        machine = self._machine
        peer = plain_name(machine.peer_address)
        return Path(plain_name(self._local), peer, machine.rtt_s, machine.lost_packets)

    @property
    @override
    def max_datagram_bytes(self) -> int:
        return self._machine.max_datagram_bytes

    @override
    def attach(self, receiver: engine.Receiver) -> None:
        if self._termination is not None:
            raise ConnectionClosedError(self._termination)
        self._machine.open_stream()
        self._receiver = receiver
        if not self._is_advancing:
            self.transmit()

    @override
    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool = False) -> None:
        self._machine.write(data, is_end=is_end)
        self._transmit_soon()

    @override
    def consume(self, count: int) -> None:
        if self._machine.consume(count):
            self._transmit_soon()

    @property
    @override
    def unsent_bytes(self) -> int:
        return self._machine.unsent_bytes

    @property
    @override
    def is_sending_finished(self) -> bool:
        return self._machine.is_sending_finished

    @override
    def send_datagram(self, data: bytes) -> None:
        self._machine.queue_datagram(data)
        self._transmit_soon()

    @property
    @override
    def dropped_datagrams(self) -> int:
        return self._machine.dropped_datagrams

    @override
    def close(self, code: int = NO_ERROR, reason: str = "") -> None:
        self._receiver = None
        self._close(code, Termination(Origin.APPLICATION, code, reason))

    # Packets, from the owner.

    def receive(self, data: bytes, peer: SocketAddress) -> None:
        """Take one packet; `advance` must follow."""
        if self._termination is not None:
            self._answer_when_closed()
            return
        try:
            self._machine.receive_datagram(data, peer, self._now())
        except Exception as error:
            # A bug of the library that a peer can reach must not end the other connections.
            self._loop.call_exception_handler(
                {"message": "the QUIC engine failed; its connection is closed", "exception": error}
            )
            self._close(ABORTED, ENGINE_FAILED)

    def advance(self) -> None:
        """Report what happened and send what is to be sent."""
        self._is_advancing = True
        try:
            self._report()
        finally:
            self._is_advancing = False
        self.transmit()

    def transmit(self) -> None:
        """Send what the machine wants sent now, and report that this made room."""
        self._is_transmit_queued = False
        self._flush()
        if self._receiver is not None:
            self._receiver.on_progress()

    def abort(self) -> None:
        """Close with ABORTED, and tell the receiver, which has not asked for it."""
        self._close(ABORTED, Termination(Origin.APPLICATION, ABORTED))

    def stop(self) -> None:
        """Touch neither timers nor the socket any more: it is about to close."""
        self._is_stopped = True
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # Events of the machine.

    @override
    def on_handshake(self) -> None:
        self._is_handshaken = True
        self._heard_at = self._now()
        self._owner.on_handshake(self)

    @override
    def on_data(self, data: bytes) -> None:
        self._heard_at = self._now()
        if self._receiver is None:
            self._find_stream()
        if self._receiver is not None and data:
            self._receiver.on_bytes(data)

    @override
    def on_fin(self) -> None:
        if self._receiver is not None:
            self._receiver.on_fin()

    @override
    def on_reset(self) -> None:
        self.abort()

    @override
    def on_datagram(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_datagram(data)

    @override
    def on_ping_acknowledged(self) -> None:
        self._heard_at = self._now()

    @override
    def on_connection_id(self, connection_id: bytes, *, is_valid: bool) -> None:
        self._owner.on_connection_id(self, connection_id, is_valid=is_valid)

    @override
    def on_closing_over(self) -> None:
        self._end(self._machine.termination or Termination(Origin.SILENCE))
        self._owner.on_gone(self)

    # Inside.

    def _transmit_soon(self) -> None:
        if not (self._is_transmit_queued or self._is_advancing):
            self._is_transmit_queued = True
            self._loop.call_soon(self.transmit)

    def _report(self) -> None:
        self._machine.report(self)
        if self._is_handshaken and self._receiver is None:
            self._find_stream()
        if self._termination is None and (termination := self._machine.termination) is not None:
            self._flush()
            self._end(termination)

    def _find_stream(self) -> None:
        if self._termination is None and self._machine.find_stream():
            self._owner.on_stream(self)

    def _close(self, code: int, termination: Termination) -> None:
        if self._termination is None:
            self._machine.terminate(code, termination.reason)
            self._flush()
            self._end(termination)

    def _end(self, termination: Termination) -> None:
        if self._termination is not None:
            return
        self._termination = termination
        self._watch.cancel()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_closed(termination)
        self._owner.on_end(self, termination)

    def _flush(self) -> None:
        packets = self._machine.datagrams_to_send(self._now())
        if packets:
            self._send(packets)
            self._count(len(packets))
            if self._machine.termination is not None:
                self._close_packets = packets
        self._arm()

    def _answer_when_closed(self) -> None:
        self._received_when_closed += 1
        if self._received_when_closed == 1 << self._close_answers <= 1 << MAX_CLOSE_ANSWERS:
            self._close_answers += 1
            self._send(self._close_packets)

    def _count(self, sent: int) -> None:
        self._sent_packets += sent
        if self._sent_packets >= KEY_UPDATE_PACKETS:
            self._sent_packets = 0
            self._machine.request_key_update()

    # Time.

    def _arm(self) -> None:
        due = self._due = self._machine.get_timer()
        if due is None or self._is_stopped or (self._timer is not None and self._wakes_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at(due)

    def _wake_at(self, due: float) -> None:
        self._wakes_at = due
        delay_s = due - self._now()
        if delay_s <= 0:
            self._timer = self._loop.call_soon(self._on_timer)
        else:
            self._timer = self._loop.call_later(max(delay_s, TIMER_RESOLUTION_S), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due is None:
            return
        now = self._now()
        if now + TIMER_RESOLUTION_S < self._due:
            self._wake_at(self._due)
        else:
            self._machine.handle_timer(max(now, self._due))
            self.advance()

    def _on_watch(self) -> None:
        # Without a stream, PINGs do not keep a connection: whoever opens it has to use it.
        since = self._created_at if self._receiver is None else self._heard_at
        remaining_s = since + self._liveness.dead_after_s - self._now()
        if remaining_s <= 0:
            silence = f"no answer from the peer for {self._liveness.dead_after_s:g} s"
            self._close(ABORTED, Termination(Origin.SILENCE, reason=silence))
            return
        interval_s = min(self._liveness.ping_interval_s, remaining_s)
        self._watch = self._loop.call_later(interval_s, self._on_watch)
        if self._is_handshaken:
            self._machine.ping()
            self._transmit_soon()
