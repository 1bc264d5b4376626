"""The adapter between an SSH connection of asyncssh and a stream of a transport.

asyncssh treats its transport as a socket of its own: it sets socket options, never pauses, and
aborts right after its last message. The carrier adapts both sides:

- to asyncssh it is the transport: `write` is the stream's own method, no socket is shown, and
  `abort` first sends what was written before, for at most `FAREWELL_S`;
- to the stream it is the protocol: it passes bytes on, reports pauses to `Pressure`, and aborts a
  peer that causes answers without reading them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from typing_extensions import override

from vpn.ssh.session.pressure import Pressure

FAREWELL_S = 1.0
PIECE_BYTES = 32 << 10
UNREAD_ANSWERS_BYTES = 128 << 20


class Carrier(asyncio.Protocol):
    """The protocol that a stream drives, and the transport to which an SSH connection writes."""

    def __init__(
        self,
        connection: asyncio.Protocol,
        pressure: Pressure,
        on_lost: Callable[[Carrier], object] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._pressure = pressure
        self._on_lost = on_lost
        self._is_over = False
        self._farewell: asyncio.TimerHandle | None = None
        self._stream: asyncio.Transport
        self.write: Callable[[bytes], None]

    # The stream's protocol.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        self.write = self._stream.write
        self._connection.connection_made(self)  # type: ignore[arg-type]

    @override
    def data_received(self, data: bytes) -> None:
        # asyncssh copies the rest of its input for every packet in it: with many small packets,
        # shorter pieces take half the time.
        for start in range(0, len(data), PIECE_BYTES):
            if self._is_over:
                return
            self._connection.data_received(data[start : start + PIECE_BYTES])
        if self._pressure.is_high and (self._stream.get_write_buffer_size() > UNREAD_ANSWERS_BYTES):
            self._stream.abort()

    @override
    def eof_received(self) -> bool:
        self._connection.eof_received()
        return False  # SSH has no half-closed state

    @override
    def pause_writing(self) -> None:
        self._pressure.on_stream(is_full=True)

    @override
    def resume_writing(self) -> None:
        self._pressure.on_stream(is_full=False)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        if self._farewell is not None:
            self._farewell.cancel()
        self._connection.connection_lost(exc)
        self._on_lost(self)

    # asyncssh's transport.

    def abort(self) -> None:
        """Close the stream, and abort it if that takes longer than `FAREWELL_S`."""
        if self._is_over:
            return
        self._is_over = True
        self._stream.close()
        loop = asyncio.get_running_loop()
        self._farewell = loop.call_later(FAREWELL_S, self._stream.abort)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the stream's information, except its socket: SSH would set options of it."""
        return default if name == "socket" else self._stream.get_extra_info(name, default)
