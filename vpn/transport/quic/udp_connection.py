"""One QUIC connection on an event loop: datagrams in, datagrams out, time, signs of life.

Theory of operation
-------------------
The engine (aioquic, without I/O) is fed datagrams and the time; a `QuicLink` asks it what to
send, when to be woken, and what happened, and drives at most one stream.

- Several datagrams are fed before the engine is asked what happened (`advance`), so that
  their acknowledgements share a packet and their data reaches the protocol in one piece.
- Writes are sent on the next turn of the loop: many small writes share packets. What is sent at
  one time is bounded by the stream's high-water mark and the engine's pacing.
- The timer is moved only to earlier times; when it fires too early it is set again. Most
  deadlines move later with every packet, so most packets touch no timer.
- The engine reports an end only after its closing period; `advance` looks at `termination`, so
  that the protocol hears of it with the packet that brought it.
- During the closing period, packets that still arrive are answered with our CONNECTION_CLOSE
  again (RFC 9000, section 10.2.1), one answer for ever more packets.
- Liveness: a PING every `ping_interval_s`; a peer from which neither stream data nor the answer
  to a PING came for `dead_after_s` is dead. Only authenticated packets count.

Left out: stateless resets (the engine neither sends nor knows them): a server that lost its
state is noticed by its silence. Migration is the engine's, and the server's side of it works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from vpn.transport.quic.aioquic_engine import STREAM_ID, QuicEngine
from vpn.transport.quic.config import KEY_UPDATE_PACKETS, Liveness
from vpn.transport.quic.pacer import TIMER_RESOLUTION_S
from vpn.transport.quic.udp_port import Datagram

ABORTED = 1  # our application error code for abort(); 0 is a clean end
MAX_CLOSE_ANSWERS = 8
PING_ID = 0  # any answer will do


class LinkStream(Protocol):
    """The facts a link reports to its stream; `vpn.transport.stream.Stream` takes them."""

    def on_bytes(self, data: bytes) -> None:
        """Bytes arrived in order."""
        ...

    def on_fin(self) -> None:
        """The peer's direction ended."""
        ...

    def on_progress(self) -> None:
        """Some of what was written has left us."""
        ...

    def on_datagram(self, data: bytes) -> None:
        """A datagram arrived."""
        ...

    def on_end(self, error: Exception | None) -> None:
        """The connection ended."""
        ...

    def abort(self) -> None:
        """End the stream, and the link with it."""
        ...


class LinkOwner(Protocol):
    """Who made a link: a client's attempt to connect, or a listener."""

    def on_handshake(self, link: QuicLink) -> None:
        """The TLS handshake is complete."""
        ...

    def on_stream(self, link: QuicLink) -> None:
        """The peer opened the stream: set `link.stream`."""
        ...

    def on_link_end(self, link: QuicLink, error: Exception | None) -> None:
        """The connection ended; its closing period may last a little longer."""
        ...

    def on_link_gone(self, link: QuicLink) -> None:
        """The closing period is over too."""
        ...

    def on_connection_id(self, link: QuicLink, connection_id: bytes, *, is_valid: bool) -> None:
        """The peer may (or may no longer) address the link by this connection id."""
        ...


class QuicLink:
    """Drives one engine."""

    stream: LinkStream | None = None

    def __init__(
        self,
        engine: QuicEngine,
        owner: LinkOwner,
        send: Callable[[list[Datagram]], None],
        liveness: Liveness,
    ) -> None:
        self.engine = engine
        self._owner = owner
        self._send = send
        self._liveness = liveness
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
        self._is_ended = False
        self._is_stopped = False
        self._sent_packets = 0
        self._close_datagrams: list[Datagram] = []
        self._close_answers = 0
        self._received_when_closed = 0

    @property
    def is_ended(self) -> bool:
        """Whether the connection has ended; a stream set now would never hear of it."""
        return self._is_ended

    # What arrives.

    def receive(self, data: bytes, peer: Any) -> None:
        """Feed one datagram; `advance` must follow."""
        if self._is_ended:
            self._answer_when_closed()
            return
        try:
            self.engine.receive_datagram(data, peer, self._now())
        except Exception as error:
            # A bug of the engine that a peer can reach must not end the other connections.
            self._loop.call_exception_handler(
                {"message": "the QUIC engine failed; its connection is closed", "exception": error}
            )
            self.engine.close(QuicErrorCode.INTERNAL_ERROR)

    def advance(self) -> None:
        """Report what happened and send what is to be sent."""
        self._is_advancing = True
        try:
            self._report()
        finally:
            self._is_advancing = False
        self.transmit()

    # Orders of the stream and the owner.

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool = False) -> None:
        """Queue bytes, or the end, of our direction."""
        # The engine appends to a buffer of its own, so any buffer will do.
        self.engine.send_stream_data(STREAM_ID, data, is_end)  # type: ignore[arg-type]
        self._transmit_soon()

    def send_datagram(self, data: bytes) -> None:
        """Queue a datagram of at most `engine.max_datagram_bytes`."""
        self.engine.queue_datagram(data)
        self._transmit_soon()

    def consume(self, count: int) -> None:
        """Give the peer credit for bytes that were read."""
        if self.engine.consume(count):
            self._transmit_soon()

    def close(self, error_code: int, error: Exception | None = None) -> None:
        """End the connection at once; the stream, if it is still attached, hears `error`."""
        if not self._is_ended:
            self.engine.close(error_code=error_code)
            self._flush()
            self._end(error)

    def stop(self) -> None:
        """Forget the connection: its socket is about to close."""
        self._is_stopped = True
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def transmit(self) -> None:
        """Send what the engine wants sent now, and see whether that made room."""
        self._is_transmit_queued = False
        self._flush()
        if self.stream is not None:
            self.stream.on_progress()

    # Inside.

    def _transmit_soon(self) -> None:
        if not (self._is_transmit_queued or self._is_advancing):
            self._is_transmit_queued = True
            self._loop.call_soon(self.transmit)

    def _report(self) -> None:
        chunks: list[bytes] = []
        while (event := self.engine.next_event()) is not None:
            if type(event) is events.StreamDataReceived:
                if event.stream_id != STREAM_ID:
                    self.engine.close(QuicErrorCode.STREAM_LIMIT_ERROR)
                    continue
                chunks.append(event.data)
                if event.end_stream:
                    self._deliver(chunks)
                    self._deliver_fin()
            else:
                if chunks:
                    self._deliver(chunks)
                self._on_event(event)
        if chunks:
            self._deliver(chunks)
        if self._is_handshaken and self.stream is None:
            self._find_stream()
        if not self._is_ended and (termination := self.engine.termination) is not None:
            self._flush()
            self._end(reason_of(termination))

    def _deliver(self, chunks: list[bytes]) -> None:
        self._heard_at = self._now()
        if self.stream is None:
            self._find_stream()
        if self.stream is not None:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if data:
                self.stream.on_bytes(data)
        chunks.clear()

    def _deliver_fin(self) -> None:
        if self.stream is not None:
            self.stream.on_fin()

    def _find_stream(self) -> None:
        if not self._is_ended and self.engine.find_stream():
            self._owner.on_stream(self)

    def _on_event(self, event: events.QuicEvent) -> None:
        match event:
            case events.DatagramFrameReceived(data=data):
                if self.stream is not None:
                    self.stream.on_datagram(data)
            case events.PingAcknowledged():
                self._heard_at = self._now()
            case events.HandshakeCompleted():
                self._is_handshaken = True
                self._heard_at = self._now()
                self._owner.on_handshake(self)
            case events.StreamReset() | events.StopSendingReceived():
                self._end(ConnectionResetError("the peer reset the stream"))
            case events.ConnectionIdIssued(connection_id=connection_id):
                self._owner.on_connection_id(self, connection_id, is_valid=True)
            case events.ConnectionIdRetired(connection_id=connection_id):
                self._owner.on_connection_id(self, connection_id, is_valid=False)
            case events.ConnectionTerminated():
                self._end(reason_of(event))
                self._owner.on_link_gone(self)

    def _end(self, error: Exception | None) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        self._watch.cancel()
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.on_end(error)
        self._owner.on_link_end(self, error)

    def _flush(self) -> None:
        datagrams = self.engine.datagrams_to_send(self._now())
        if datagrams:
            self._send(datagrams)
            self._count(len(datagrams))
            if self.engine.termination is not None:
                self._close_datagrams = datagrams
        self._arm()

    def _answer_when_closed(self) -> None:
        """Repeat our close for the 1st, 2nd, 4th, 8th … packet that still comes."""
        self._received_when_closed += 1
        if self._received_when_closed == 1 << self._close_answers <= 1 << MAX_CLOSE_ANSWERS:
            self._close_answers += 1
            self._send(self._close_datagrams)

    def _count(self, sent: int) -> None:
        self._sent_packets += sent
        if self._sent_packets >= KEY_UPDATE_PACKETS:
            self._sent_packets = 0
            self.engine.request_key_update()

    # Time.

    def _arm(self) -> None:
        due = self._due = self.engine.get_timer()
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
            self.engine.handle_timer(max(now, self._due))
            self.advance()

    def _on_watch(self) -> None:
        # Without a stream, signs of life do not help: a connection must come to its point.
        since = self._created_at if self.stream is None else self._heard_at
        remaining_s = since + self._liveness.dead_after_s - self._now()
        if remaining_s <= 0:
            silent = TimeoutError(f"no answer from the peer for {self._liveness.dead_after_s:g} s")
            self.close(ABORTED, silent)
            return
        interval_s = min(self._liveness.ping_interval_s, remaining_s)
        self._watch = self._loop.call_later(interval_s, self._on_watch)
        if self._is_handshaken:
            self.engine.send_ping(PING_ID)
            self._transmit_soon()


def reason_of(termination: events.ConnectionTerminated) -> Exception | None:
    """Return what a protocol is told about an end: None if it was clean."""
    if termination.error_code == QuicErrorCode.NO_ERROR:
        return None
    if termination.reason_phrase == "Idle timeout":
        return TimeoutError("no answer from the peer")
    if termination.frame_type is None and termination.error_code == ABORTED:
        return ConnectionResetError("the peer aborted the stream")
    return ConnectionResetError(
        f"the QUIC connection broke: error {termination.error_code:#x} {termination.reason_phrase}"
    )
