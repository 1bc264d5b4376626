"""The server's end of a control connection, on an event loop, and the user at its other end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from vpn.control.messages import SERVER

_UCRED: Final = struct.Struct("3i")


def uid_of(sock: socket.socket) -> int:
    """Return the user ID of the process that connected (unix(7), SO_PEERCRED)."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


class Peer:
    """A client that has connected. The socket belongs to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.uid = uid_of(sock)
        self._link = Link(sock, SERVER)

    async def receive(self) -> Message:
        """Return the next message. Raises ViolationError, or LinkClosedError at the end."""
        message, _ = await receive(self._link)
        return message

    async def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message; the descriptors stay the caller's. Raises LinkClosedError."""
        loop = asyncio.get_running_loop()
        while not self._link.send(message, fds):
            await _ready(self._link, loop.add_writer, loop.remove_writer)

    async def hang_up(self) -> None:
        """Wait until the client hangs up, or says what it may not."""
        with suppress(LinkClosedError, ViolationError):
            await self.receive()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


async def receive(link: Link) -> tuple[Message, list[int]]:
    """Return the next message of a link and its descriptors. Raises as `Link.receive` does."""
    loop = asyncio.get_running_loop()
    while (received := link.receive()) is None:
        await _ready(link, loop.add_reader, loop.remove_reader)
    return received


async def _ready(link: Link, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    """Wait until a link can be read or written."""
    ready = asyncio.Event()
    number = link.fileno()
    add(number, ready.set)
    try:
        await ready.wait()
    finally:
        remove(number)
