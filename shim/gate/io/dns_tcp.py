"""The TCP connections to the resolver of the gate (RFC 7766). I/O only: messages in and out.

Bounds: `MAX_STREAMS`; one more takes the place of the idlest. One that is idle for `IDLE_S` is
closed.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Final

from dns import framing

SYSCALLS: Final = frozenset({"epoll_ctl", "ioctl", "recvfrom", "sendto"})

MAX_STREAMS: Final = 256
IDLE_S: Final = 30.0

OnQuery = Callable[[bytes, bytes, int], None]
"""Gets a DNS message, the address that it was sent to, and the number of its connection."""


class DnsStreams:
    """All connections. `on_event` is to be called when `poll` says so."""

    def __init__(self, poll: select.epoll, on_query: OnQuery) -> None:
        self._poll = poll
        self._on_query = on_query
        self._streams: dict[int, _Stream] = {}
        self._fds: dict[int, int] = {}
        self._next = 1

    def __contains__(self, fd: int) -> bool:
        return fd in self._streams

    def add(self, sock: socket.socket, server: bytes, now: float) -> None:
        """Serve an accepted connection, whose peer had connected to the address `server`."""
        if len(self._streams) >= MAX_STREAMS:
            self._drop(min(self._streams, key=lambda fd: self._streams[fd].last))
        sock.setblocking(False)
        self._streams[sock.fileno()] = _Stream(sock, server, now, self._next)
        self._fds[self._next] = sock.fileno()
        self._next += 1
        self._poll.register(sock, select.EPOLLIN)

    def on_event(self, fd: int, now: float) -> None:
        """A connection is readable, or has ended."""
        stream = self._streams[fd]
        try:
            messages = stream.read(now)
        except (OSError, ValueError):
            self._drop(fd)
            return
        for message in messages:
            self._on_query(message, stream.server, stream.number)

    def expire(self, now: float) -> None:
        """Close connections that are idle."""
        for fd, stream in list(self._streams.items()):
            if now - stream.last > IDLE_S:
                self._drop(fd)

    def reply(self, number: int, wire: bytes) -> None:
        """Send an answer, unless the connection is closed. One that does not take it is closed."""
        fd = self._fds.get(number)
        if fd is not None and not self._streams[fd].send(wire):
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        stream = self._streams.pop(fd)
        del self._fds[stream.number]
        self._poll.unregister(fd)
        stream.sock.close()


class _Stream:
    """One connection."""

    def __init__(self, sock: socket.socket, server: bytes, now: float, number: int) -> None:
        self.sock = sock
        self._framing = framing.Framing()
        self.server = server
        self.number = number
        self.last = now

    def read(self, now: float) -> list[bytes]:
        """Return the complete messages. Raises OSError or ValueError at the end."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError
        self.last = now
        return self._framing.feed(data)

    def send(self, wire: bytes) -> bool:
        """Send an answer. Returns whether the peer is there and has room for all of it."""
        framed = framing.frame(wire)
        with contextlib.suppress(OSError):
            return self.sock.send(framed) == len(framed)
        return False
