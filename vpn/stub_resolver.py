"""The sockets of a stub client for DNS: what `dns.exchange` orders, done with asyncio."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from dns.codes import PORT
from dns.exchange import Ask, Done, Exchange, Order

_MAX_MESSAGE: Final = 65535
_NUMERIC: Final = socket.AI_NUMERICHOST

random_ident = partial(secrets.randbits, 16)
"""An identifier that nobody can guess, for `Exchange`."""

OpenSocket = Callable[[socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]]
"""Returns a new non-blocking socket. Raises OSError."""


class ConnectionEndedError(ConnectionError):
    """The server has ended the connection without an answer."""


async def open_socket(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Return a socket of this network namespace."""
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def run(exchange: Exchange, open_socket: OpenSocket, port: int = PORT) -> bytes:
    """Return the answer of an exchange.

    Raises OSError if no server has given one: of the last server TimeoutError, if it has not
    answered in time, ConnectionEndedError, or what its socket has raised.
    """
    loop = asyncio.get_running_loop()
    turn = _Turn(open_socket, port)
    error: OSError = TimeoutError()
    try:
        order: Order = exchange.start(loop.time())
        while not isinstance(order, Done):
            try:
                async with asyncio.timeout_at(exchange.deadline_s):
                    if order is not None:
                        await turn.send(order)
                    octets = await turn.receive()
            except TimeoutError:
                error, order = TimeoutError(), exchange.on_time(loop.time())
            except OSError as failed:
                error, order = failed, exchange.on_error(loop.time())
            else:
                if not octets:
                    error = ConnectionEndedError()
                order = exchange.on_octets(octets, loop.time())
    finally:
        turn.close()
    if order.answer is None:
        raise error
    return order.answer


class _Turn:
    """The socket of the current turn (`dns.exchange`)."""

    def __init__(self, open_socket: OpenSocket, port: int) -> None:
        self._open_socket = open_socket
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None

    async def send(self, ask: Ask) -> None:
        """Send a query."""
        if not ask.is_again:
            self.close()
        if self._sock is None:
            kind = socket.SOCK_STREAM if ask.over_tcp else socket.SOCK_DGRAM
            found = socket.getaddrinfo(ask.server, self._port, type=kind, flags=_NUMERIC)[0]
            self._sock = await self._connected(found[0], kind, found[4])
        await self._loop.sock_sendall(self._sock, ask.octets)

    async def _connected(
        self, family: socket.AddressFamily, kind: socket.SocketKind, where: tuple[Any, ...]
    ) -> socket.socket:
        sock = await self._open_socket(family, kind)
        try:
            await self._loop.sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock

    async def receive(self) -> bytes:
        """Return a datagram, or the next octets of the stream."""
        assert self._sock is not None, "nothing has been sent"
        # A socket that always has something gives way to the others, and to the time.
        await asyncio.sleep(0)
        return await self._loop.sock_recv(self._sock, _MAX_MESSAGE)

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
