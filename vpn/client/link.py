"""A link of the shim on an event loop: messages in by callback, messages out in order."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from shim.protocol.link import Link, LinkClosedError, Message, ViolationError

_BURST = 64
_MAX_QUEUED = 65536


class AsyncLink:
    """Drives a link. `on_message` gets each message with its descriptors, which it then owns."""

    def __init__(self, link: Link, on_message: Callable[[Message, list[int]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._on_message = on_message
        self._queue: deque[Message] = deque()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(link.fileno(), self._on_readable)

    def send(self, message: Message) -> None:
        """Send a message now, or as soon as the peer reads. Does nothing on a closed link.

        That the peer has gone is noticed by reading, after what it said last.
        """
        if self.closed.done():
            return
        if self._queue:
            self._enqueue(message)
            return
        with suppress(LinkClosedError):
            if not self._link.send(message):
                self._enqueue(message)
                self._loop.add_writer(self._link.fileno(), self._on_writable)

    def close(self) -> None:
        """Close the link; `closed` is done then."""
        if not self.closed.done():
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_writer(self._link.fileno())
            self._link.close()
            self.closed.set_result(None)

    def _enqueue(self, message: Message) -> None:
        if len(self._queue) >= _MAX_QUEUED:
            self.close()  # a peer that never reads is as good as gone
            return
        self._queue.append(message)

    def _on_writable(self) -> None:
        with suppress(LinkClosedError):
            while self._queue:
                if not self._link.send(self._queue[0]):
                    return
                self._queue.popleft()
        self._loop.remove_writer(self._link.fileno())

    def _on_readable(self) -> None:
        try:
            for _ in range(_BURST):
                if self.closed.done():
                    return
                received = self._link.receive()
                if received is None:
                    return
                self._on_message(*received)
        except (LinkClosedError, ViolationError):
            self.close()


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
