"""Carries one SSH connection over one stream; stands between asyncssh and a transport.

asyncssh treats its transport as a socket of its own: it sets socket options, never pauses, and
aborts right after its last words. The carrier repairs that on both sides:

- towards asyncssh it is the transport: `write` is the stream's own method (no cost), no socket
  is shown, and `abort` first lets the last words leave, for at most `FAREWELL_S`;
- towards the stream it is the protocol: it passes bytes on, tells `Pressure` about pauses, and
  cuts off a peer that makes us answer without ever reading the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from vpn.ssh.session.pressure import Pressure

FAREWELL_S = 1.0
PIECE_BYTES = 32 << 10
UNREAD_ANSWERS_BYTES = 128 << 20


class Carrier(asyncio.Protocol):
    """The protocol a stream drives and the transport an SSH connection writes to."""

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the SSH connection on a new stream."""
        self._stream = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        self.write = self._stream.write
        self._connection.connection_made(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Pass bytes to SSH."""
        # asyncssh copies what is left of its input for every packet in it: with many small
        # packets, shorter pieces take half the time.
        for start in range(0, len(data), PIECE_BYTES):
            if self._is_over:
                return
            self._connection.data_received(data[start : start + PIECE_BYTES])
        if self._pressure.is_high and (self._stream.get_write_buffer_size() > UNREAD_ANSWERS_BYTES):
            self._stream.abort()

    def eof_received(self) -> bool:
        """End: SSH has no half-closed state."""
        self._connection.eof_received()
        return False

    def pause_writing(self) -> None:
        """Hold back the flows."""
        self._pressure.on_stream(is_full=True)

    def resume_writing(self) -> None:
        """Let the flows go on."""
        self._pressure.on_stream(is_full=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """End SSH with the stream."""
        self._is_over = True
        if self._farewell is not None:
            self._farewell.cancel()
        self._connection.connection_lost(exc)
        self._on_lost(self)

    # asyncssh's transport.

    def abort(self) -> None:
        """End the stream once it has sent what asyncssh wrote before, or soon anyway."""
        if self._is_over:
            return
        self._is_over = True
        self._stream.close()
        loop = asyncio.get_running_loop()
        self._farewell = loop.call_later(FAREWELL_S, self._stream.abort)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the stream says, but not its socket: SSH sets no socket options."""
        return default if name == "socket" else self._stream.get_extra_info(name, default)
