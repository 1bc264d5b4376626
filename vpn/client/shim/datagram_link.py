"""The client's end of the link for datagrams: lossy both ways (see `shim.protocol.datagrams`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from shim.protocol.datagrams import CLIENT_OF_GATE, burst
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError

BUFFER_BYTES: Final = 1 << 20
"""Asked for in each direction: some 15 of the largest datagrams, or hundreds of small ones."""

_BURST: Final = 64


class DatagramLink:
    """The link to the current gate, made anew for each gate."""

    def __init__(
        self, on_message: Callable[[Message], None], on_violation: Callable[[], None]
    ) -> None:
        """`on_violation` is called when the gate breaks a rule; the link is closed then."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_violation = on_violation
        self._link: Link | None = None

    def renew(self) -> int:
        """Make a new link, and return the gate's end, which is the caller's. Raises OSError."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._link = Link(ours, CLIENT_OF_GATE)
        self._loop.add_reader(self._link.fileno(), self._on_readable)
        return theirs.detach()

    def send(self, message: Message) -> None:
        """Send a message, or lose it: there is no room, or no gate."""
        with suppress(LinkClosedError):  # noticed by reading
            if self._link is not None:
                self._link.send(message)

    def close(self) -> None:
        """Close the link, if there is one."""
        if self._link is not None:
            self._loop.remove_reader(self._link.fileno())
            self._link.close()
            self._link = None

    def _on_readable(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            for message in burst(link, _BURST):
                self._on_message(message)
                if self._link is not link:
                    return
        except LinkClosedError:
            self.close()
        except ViolationError:
            self.close()
            self._on_violation()
