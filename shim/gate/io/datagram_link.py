"""The gate's end of the link for datagrams: lossy both ways (see `shim.protocol.datagrams`).

It comes with `Configure`; a newer one replaces it. While it is full, messages are dropped at once,
without a system call each, until the client has read.
"""

from __future__ import annotations

import select
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from shim.protocol.datagrams import GATE, MAX_ASSOCIATIONS, burst
from shim.protocol.gate import DropReason
from shim.protocol.handover import adopt
from shim.protocol.link import Link, LinkClosedError, Message

SYSCALLS: Final = frozenset({"epoll_ctl", "getsockname", "ioctl"})

BURST: Final = 64


class DatagramLink:
    """The link, registered with `poll`; call `on_event` when it is ready."""

    def __init__(
        self,
        poll: select.epoll,
        on_message: Callable[[Message], None],
        counters: Counter[DropReason],
    ) -> None:
        self._poll = poll
        self._on_message = on_message
        self._counters = counters
        self._link: Link | None = None
        self._is_full = False
        self._late: deque[Message] = deque(maxlen=MAX_ASSOCIATIONS)

    @property
    def is_full(self) -> bool:
        """Whether nothing can be sent now: there is no link, or its reader is behind."""
        return self._is_full or self._link is None

    @property
    def fd(self) -> int:
        """The descriptor, -1 while there is none."""
        return -1 if self._link is None else self._link.fileno()

    def attach(self, fd: int) -> None:
        """Take the link that came with `Configure`. Raises ViolationError if it is none."""
        link = adopt(fd, GATE)
        self.close()
        self._link = link
        self._poll.register(self._link, select.EPOLLIN)

    def send(self, message: Message) -> bool:
        """Send a message, or drop and count it, and return False."""
        if self._link is not None and not self._is_full:
            try:
                if self._link.send(message):
                    return True
            except LinkClosedError:  # noticed by reading, too
                self.close()
            else:
                self._is_full = True
                self._poll.modify(self._link, select.EPOLLIN | select.EPOLLOUT)
        self._counters[DropReason.DATAGRAM_LINK] += 1
        return False

    def send_later(self, message: Message) -> None:
        """Send a message as soon as there is room: it is not repeated."""
        self._late.append(message)
        self._send_late()

    def on_event(self) -> None:
        """Receive what has come. Raises ViolationError."""
        link = self._link
        if link is None:
            return
        if self._is_full:
            self._is_full = False
            self._poll.modify(link, select.EPOLLIN)
            self._send_late()
        try:
            for message in burst(link, BURST):
                self._on_message(message)
        except LinkClosedError:
            self.close()

    def _send_late(self) -> None:
        while self._late and not self.is_full:
            if self.send(self._late[0]):
                self._late.popleft()

    def close(self) -> None:
        """Close the link, if there is one."""
        if self._link is not None:
            self._poll.unregister(self._link)
            self._link.close()
            self._link = None
            self._is_full = False
