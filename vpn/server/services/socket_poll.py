"""One epoll(7) for many sockets, that reports datagrams and ICMP errors on any event loop.

libuv takes a socket with an error in its queue for a broken one, and watches it no more. So all
sockets are in an epoll(7) of our own, and the event loop watches that.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

OnReady = Callable[[int], None]
"""Gets the events of epoll(7) that there are."""


class SocketPoll:
    """Watches any number of sockets on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll = select.epoll()
        self._callbacks: dict[int, OnReady] = {}
        self._loop.add_reader(self._poll.fileno(), self._on_events)

    def add(self, fd: int, on_ready: OnReady) -> None:
        """Watch a socket for datagrams and errors until it is removed, which it must be."""
        self._poll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = on_ready

    def modify(self, fd: int, *, is_read: bool) -> None:
        """Watch for datagrams and errors, or only for errors."""
        self._poll.modify(fd, select.EPOLLIN if is_read else 0)

    def remove(self, fd: int) -> None:
        """Watch a socket no more."""
        self._poll.unregister(fd)
        del self._callbacks[fd]

    def close(self) -> None:
        """Watch nothing any more; harmless when closed."""
        if self._poll.closed:
            return
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()

    def _on_events(self) -> None:
        for fd, events in self._poll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
