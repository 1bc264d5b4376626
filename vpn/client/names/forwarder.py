"""Sends DNS messages where they went before: to the resolver they were meant for, outside.

Each question has a socket and so a source port of its own (RFC 5452 §9.2). The answer goes back
untouched; the asker checks it as it would have checked it without us.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Final

from dns import framing
from shim.protocol.gate import Forward
from vpn.transport.base import OuterSockets

TIMEOUT_S: Final = 5.0
MAX_AT_ONCE: Final = 512
_PORT: Final = 53
_MAX_DATAGRAM: Final = 65535


class Forwarder:
    """Asks resolvers outside the tunnel."""

    def __init__(self, sockets: OuterSockets) -> None:
        self._sockets = sockets
        self._running = 0

    async def ask(self, question: Forward) -> bytes:
        """Return the answer, empty if there is none in time."""
        if self._running >= MAX_AT_ONCE:
            return b""
        self._running += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(question)
        except (OSError, ValueError, TimeoutError):
            return b""
        finally:
            self._running -= 1

    async def _ask(self, question: Forward) -> bytes:
        server = ip_address(question.server)
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        kind = socket.SOCK_STREAM if question.over_tcp else socket.SOCK_DGRAM
        loop = asyncio.get_running_loop()
        sock = await self._sockets.outer_socket(family, kind)
        with sock:
            await loop.sock_connect(sock, (str(server), _PORT))
            if not question.over_tcp:
                await loop.sock_sendall(sock, question.message)
                while True:
                    answer = await loop.sock_recv(sock, _MAX_DATAGRAM)
                    if answer[:2] == question.message[:2]:
                        return answer
            await loop.sock_sendall(sock, framing.frame(question.message))
            stream = framing.Framing()
            while data := await loop.sock_recv(sock, _MAX_DATAGRAM):
                for answer in stream.feed(data):
                    return answer
        return b""
