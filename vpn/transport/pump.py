"""A pump: two duplex transports joined, so that what TCP does at one end happens at the other.

Theory of operation
-------------------
A pump has two sides. `near` drives a connected TCP socket (a flow of the shim, a SOCKS client,
the destination on a server), `far` an SSH channel; each is the asyncio protocol of its transport
and writes to the other's. The two may come up in any order: the first one is paused until the
second is there. No task, no buffer and no copy of our own is involved while bytes flow.

| one side sees                         | the other side does                              |
|---------------------------------------|--------------------------------------------------|
| data                                  | writes it; when full, the first stops reading    |
| end of its peer's data (FIN, EOF)     | ends its data (FIN, EOF); the rest flows on      |
| an error (RST, CLOSE without EOF …)   | resets: RST by SO_LINGER 0, CLOSE without EOF    |
| a clean end although ours was open    | closes: queued data leaves, later data gets RST  |

The last row is close(2) at the far end: nobody is left to read, but what was already sent must
arrive. When both ends of data were seen, both sides close, which flushes. `on_done` is called
once, when both transports are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from typing_extensions import override

WRITE_BUFFER_BYTES = 256 << 10
_LINGER_ZERO = struct.pack("ii", 1, 0)  # struct linger of socket(7): close(2) sends RST


class Pump:
    """Two joined transports. `near.received` and `far.received` count bytes."""

    def __init__(self) -> None:
        self.near = Side(self)
        self.far = Side(self)
        self.near.other, self.far.other = self.far, self.near
        self._callbacks: list[Callable[[Pump], object]] = []

    @property
    def bytes_up(self) -> int:
        """Bytes which came from the socket."""
        return self.near.received

    @property
    def unsent(self) -> int:
        """Bytes of `bytes_up` which the channel has still to send."""
        transport = self.far._transport
        return 0 if transport is None else transport.get_write_buffer_size()

    @property
    def bytes_down(self) -> int:
        """Bytes which came from the channel."""
        return self.far.received

    @property
    def has_ended(self) -> tuple[bool, bool]:
        """Whether the socket, and whether the channel, has ended its data."""
        return self.near._has_ended, self.far._has_ended

    @property
    def is_done(self) -> bool:
        """Whether both sides are finished."""
        return self.near.is_lost and self.far.is_lost

    async def attach(self, sock: socket.socket) -> None:
        """Bring the connected TCP socket, which the pump owns from now on. Raises OSError."""
        if self.far.is_lost or self.near.is_lost:
            _reset_on_close(sock)
            sock.close()
            self.near.give_up()
            return
        loop = asyncio.get_running_loop()
        try:
            # asyncio sets it only on sockets which say that they are TCP; accepted ones do not.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_connection(lambda: self.near, sock=sock)
        except BaseException:
            sock.close()
            self.abort()
            raise

    def on_done(self, callback: Callable[[Pump], object]) -> None:
        """Call `callback` once, when both sides are finished; at once if they are."""
        if self.is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def abort(self) -> None:
        """Reset both sides; one that has not come up never will."""
        for side in (self.near, self.far):
            side.reset()
            side.give_up()

    def on_lost(self) -> None:
        """Called by a side which has ended."""
        if self.is_done:
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback(self)


class Side(asyncio.Protocol):
    """The protocol of one of the two transports."""

    other: Side

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._has_ended = False
        self._early: list[bytes] = []
        self.received = 0
        self.is_lost = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start, or wait for the other side; end at once if that one is already gone."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        other = self.other
        if other.is_lost:
            # Not now: uvloop takes the socket over after this, and would leave its number to be
            # closed a second time.
            asyncio.get_running_loop().call_soon(self.reset)
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if other._transport is None:
            self.pause()
        else:
            self._catch_up()

    @override
    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        transport = self.other._transport
        if transport is None:
            self._keep(data)
        elif not transport.is_closing():
            transport.write(data)

    @override
    def eof_received(self) -> bool:
        """Pass the end of data on; the other direction stays open."""
        self._has_ended = True
        other = self.other
        other.end()
        if other._has_ended:
            self._close()
            other._close()
        return True

    def _keep(self, data: bytes) -> None:
        """Keep what was read before the other side is up.

        uvloop reads once although it was paused in connection_made.
        """
        if self._transport is not None and not self.other.is_lost:
            self._early.append(data)
            self._transport.pause_reading()

    def _catch_up(self) -> None:
        """Write what the other side has read, and maybe ended, before we were up."""
        other = self.other
        early, other._early = other._early, []
        for data in early:
            cast(asyncio.Transport, self._transport).write(data)
        if other._has_ended:
            self.end()
        other.resume()

    @override
    def pause_writing(self) -> None:
        """Stop the other side's reading while ours cannot write."""
        self.other.pause()

    @override
    def resume_writing(self) -> None:
        """Let the other side read again."""
        self.other.resume()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side the same way."""
        self.is_lost = True
        self._transport = None
        if exc is not None or not self._has_ended:
            self.other.reset()
        else:
            self.other._close()
        self._pump.on_lost()

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._is_paused and not self._has_ended:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused:
            self._is_paused = False
            # After the end, asyncio would read, and report, it once more.
            if self._transport is not None and not self._has_ended:
                self._transport.resume_reading()

    def end(self) -> None:
        """Write the end of data after all data."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write_eof()
        except OSError:  # shutdown(2) on a socket which was reset: ENOTCONN
            self.reset()

    def reset(self) -> None:
        """End at once, and let the peer see that it is no clean end."""
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _reset_on_close(sock)
        self._transport.abort()

    def give_up(self) -> None:
        """Do not wait for a transport that has not come up."""
        if self._transport is None and not self.is_lost:
            self.is_lost = True
            self._pump.on_lost()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _reset_on_close(sock: Any) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
