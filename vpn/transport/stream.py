"""The rules of an asyncio.Transport, for carriers that report events.

Theory of operation
-------------------
A carrier (QUIC, an SSH channel, a pair in memory) reports facts and takes orders, while asyncio
has rules for when a transport may call its protocol. `Stream` keeps those rules:

- *facts*, called by the carrier: `on_open`, `on_bytes`, `on_fin`, `on_progress` (bytes were
  sent), `on_end` (the carrier has ended, cleanly or with an error);
- *orders*, implemented by the carrier: `_send`, `_send_fin`, `_consumed`, `_flushed`, `_shut`,
  `_reset`.

Invariants:

- `connection_made` comes first, `connection_lost` last and once, never from inside a call which
  the protocol made;
- bytes that arrive while reading is paused are kept here, and reported `_consumed` only when
  the protocol has them, so the carrier's flow control bounds them;
- a clean end waits until the protocol has read what came before it; a reset does not wait;
- a protocol that raises is aborted and the event loop's exception handler is told, as asyncio's
  own transports do.

Left out: `asyncio.BufferedProtocol` (SSH does not use it, and it would need a copy here).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vpn.transport.base import HIGH_WATER

LOW_WATER = HIGH_WATER // 2


class ProtocolDriver(asyncio.Transport):
    """A transport that drives an asyncio.Protocol and ends each direction by itself."""

    def __init__(self, protocol: asyncio.Protocol, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(dict(extra or {}))
        self._protocol: asyncio.Protocol = protocol
        self._data_received = protocol.data_received

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Raise NotImplementedError: the limits are the same for every stream."""
        raise NotImplementedError("the write buffer limits of a stream are fixed")

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Drive another protocol from now on. Raises TypeError."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a stream drives an asyncio.Protocol")
        self._protocol = protocol
        self._data_received = protocol.data_received

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol


class Stream(ProtocolDriver):
    """One duplex stream that drives a protocol; a carrier implements the orders.

    The protocol is paused above `high_water` bytes, and resumed at `low_water`.
    """

    high_water: ClassVar = HIGH_WATER
    low_water: ClassVar = LOW_WATER

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        extra: Mapping[str, Any],
    ) -> None:
        super().__init__(protocol, extra)
        self._loop = loop
        self._inbound: deque[bytes] = deque()
        self._is_reading = True
        self._is_delivering = False
        self._is_writing_paused = False
        self._is_closing = False
        self._is_lost = False
        self._has_sent_fin = False
        self._has_fin_waiting = False
        self._has_end_waiting = False

    # Orders to the carrier.

    @abstractmethod
    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""

    @abstractmethod
    def _send(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes to send; a mutable buffer must be copied before returning."""

    @abstractmethod
    def _send_fin(self) -> None:
        """End our direction after the bytes already taken."""

    @abstractmethod
    def _consumed(self, count: int) -> None:
        """Give the peer credit for `count` bytes which the protocol has read."""

    @abstractmethod
    def _flushed(self) -> bool:
        """Return whether the peer has received all bytes and the end of our direction."""

    @abstractmethod
    def _shut(self) -> None:
        """End the carrier cleanly. Called once, after everything is flushed."""

    @abstractmethod
    def _reset(self) -> None:
        """End the carrier so that the peer sees a reset. Called at most once."""

    # Facts from the carrier.

    def on_open(self) -> None:
        """Call `connection_made`."""
        self.guarded(self._connection_made)

    def on_bytes(self, data: bytes) -> None:
        """Deliver bytes, or keep them while reading is paused."""
        if self._is_closing:
            self._consumed(len(data))
        elif self._is_reading and not self._inbound:
            try:
                self._data_received(data)
            except Exception as error:
                self._fail(error)
            self._consumed(len(data))
        else:
            self._inbound.append(data)

    def on_fin(self) -> None:
        """Deliver the end of the peer's direction after the bytes before it."""
        self._has_fin_waiting = True
        self._deliver()

    def on_progress(self) -> None:
        """Resume a paused writer, or finish closing, if enough has been sent."""
        if self._is_closing:
            self._finish_if_flushed()
        elif self._is_writing_paused and self.get_write_buffer_size() <= self.low_water:
            self._resume_protocol()

    def on_end(self, error: Exception | None) -> None:
        """End the stream: None is a clean end, else the error."""
        if error is None and not self._is_closing:
            self._has_end_waiting = True
            self._deliver()
        else:
            self._lose(error)

    # asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; once the stream is closing they are dropped, as asyncio does."""
        if self._has_sent_fin and not self._is_closing:
            raise RuntimeError("write() after write_eof()")
        if self._is_closing or self._is_lost or not data:
            return
        self._send(data)
        if self._is_full() and not (self._is_writing_paused or self._is_closing):
            self._pause_protocol()

    def write_eof(self) -> None:
        """End our direction; the peer's stays open."""
        if not (self._has_sent_fin or self._is_closing or self._is_lost):
            self._has_sent_fin = True
            self._send_fin()

    def close(self) -> None:
        """Send what was written, then end; bytes that still arrive are dropped."""
        if self._is_closing or self._is_lost:
            return
        self.write_eof()
        self._is_closing = True
        self._drop_inbound()
        if self._has_end_waiting:
            self._lose(None)
        else:
            self._finish_if_flushed()

    def abort(self) -> None:
        """End at once; the peer sees a reset."""
        self._abort(None)

    def is_closing(self) -> bool:
        """Return whether the stream is closing or closed."""
        return self._is_closing or self._is_lost

    def pause_reading(self) -> None:
        """Stop `data_received`; the peer may send one flow-control window more."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Deliver again, from the next turn of the event loop on."""
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        """Return whether bytes are being delivered."""
        return self._is_reading and not self._is_closing

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and high water marks in bytes."""
        return self.low_water, self.high_water

    # Inside.

    def _is_full(self) -> bool:
        """Return whether the protocol is to pause writing."""
        return self.get_write_buffer_size() > self.high_water

    def _pause_protocol(self) -> None:
        self._is_writing_paused = True
        self.guarded(self._protocol.pause_writing)

    def _resume_protocol(self) -> None:
        self._is_writing_paused = False
        self.guarded(self._protocol.resume_writing)

    def _connection_made(self) -> None:
        self._protocol.connection_made(self)

    def _deliver(self) -> None:
        """Deliver the bytes and ends that wait, until the protocol pauses."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._inbound and self._is_reading and not self._is_closing:
                data = self._inbound.popleft()
                self.guarded(self._data_received, data)
                self._consumed(len(data))
        finally:
            self._is_delivering = False
        if self._inbound or not self._is_reading or self._is_closing:
            return
        if self._has_fin_waiting:
            self._has_fin_waiting = False
            self.guarded(self._eof_received)
        if self._has_end_waiting:
            self._lose(None)

    def _eof_received(self) -> None:
        if not self._protocol.eof_received():
            self.close()

    def _finish_if_flushed(self) -> None:
        if not self._is_lost and self._flushed():
            self._shut()
            self._lose(None)

    def _abort(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._reset()
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._inbound.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)

    def _drop_inbound(self) -> None:
        while self._inbound:
            self._consumed(len(self._inbound.popleft()))

    def guarded(self, callback: Any, *arguments: Any) -> None:
        """Call the protocol; abort the stream if that raises."""
        try:
            callback(*arguments)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": "a protocol raised; its stream is aborted",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._abort(error)
