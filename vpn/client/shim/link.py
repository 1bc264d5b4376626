"""A link of the shim on an event loop: messages come by callback and leave in order."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from shim.protocol.link import Link, LinkClosedError, Message, ViolationError

_MAX_QUEUED = 65536


class AsyncLink:
    """Drives a link. `on_message` gets each message with its descriptors, which it then owns."""

    def __init__(self, link: Link, on_message: Callable[[Message, list[int]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._on_message = on_message
        self._queue: deque[tuple[Message, tuple[int, ...]]] = deque()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(link.fileno(), self._on_readable)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message now, or as soon as the peer reads. Does nothing on a closed link.

        The descriptors belong to the link, which closes them. The end of the peer is noticed by
        reading, after its last message.
        """
        if self.closed.done():
            close_all(fds)
            return
        if self._queue:
            self._enqueue(message, fds)
            return
        if not self._try(message, fds):
            self._enqueue(message, fds)
            self._loop.add_writer(self._link.fileno(), self._on_writable)

    def close(self) -> None:
        """Close the link; `closed` is done then."""
        if not self.closed.done():
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_writer(self._link.fileno())
            self._link.close()
            for _, fds in self._queue:
                close_all(fds)
            self._queue.clear()
            self.closed.set_result(None)

    def _try(self, message: Message, fds: tuple[int, ...]) -> bool:
        """Send a message. False if it has to be tried again."""
        with suppress(LinkClosedError):
            if not self._link.send(message, fds):
                return False
        close_all(fds)
        return True

    def _enqueue(self, message: Message, fds: tuple[int, ...]) -> None:
        self._queue.append((message, fds))
        if len(self._queue) > _MAX_QUEUED:
            self.close()  # a peer that never reads is as good as gone

    def _on_writable(self) -> None:
        while self._queue:
            if not self._try(*self._queue[0]):
                return
            self._queue.popleft()
        self._loop.remove_writer(self._link.fileno())

    def _on_readable(self) -> None:
        try:
            received = self._link.receive()
            if received is not None:
                self._on_message(*received)
        except (LinkClosedError, ViolationError):
            self.close()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
