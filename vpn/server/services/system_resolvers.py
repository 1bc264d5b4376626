"""Asks the resolvers of this machine for records that getaddrinfo(3) does not tell.

A question goes to one resolver after the other, as often as `/etc/resolv.conf` says, until one has
an answer; one that fails (SERVFAIL, NOTIMP, REFUSED) is the answer only if no other has a better
one. Each attempt has a connected socket of its own, so a port of its own and answers from nobody
else (RFC 5452 §9.2), and an identifier of its own; an answer must repeat the question. What is too
long for a datagram is asked for again over TCP (RFC 7766 §5).

The file is read for each question: it changes when this machine moves to another network.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from dns import framing
from dns.codes import RCode
from dns.names import Labels, fold, to_text
from dns.resolv_conf import ResolvConf, parse
from dns.upstream import answers, build_query
from dns.wire import HEADER, TC

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_AT_ONCE: Final = 256
TIMEOUT_S: Final = 9.0
"""In all; a little less than who asks has patience for."""

_PORT: Final = 53
_MAX_MESSAGE: Final = 65535
_MAX_FILE: Final = 65536
_ASK_NEXT: Final = (RCode.SERVFAIL, RCode.NOTIMP, RCode.REFUSED)


class SystemResolvers:
    """A stub resolver for types other than addresses."""

    def __init__(self, resolv_conf: Path = RESOLV_CONF, port: int = _PORT) -> None:
        self._path = resolv_conf
        self._port = port
        self._running = asyncio.Semaphore(MAX_AT_ONCE)

    def settings(self) -> ResolvConf:
        """Return what the file says now; who is asked without one is this machine."""
        try:
            with self._path.open("rb") as file:
                return parse(file.read(_MAX_FILE).decode("utf-8", "replace"))
        except OSError:
            return parse("")

    async def ask(self, labels: Labels, rtype: int) -> bytes | None:
        """Return an answer with the identifier 0, of whatever response code; None without any."""
        found: bytes | None = None
        settings = self.settings()
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S), self._running:
                for _ in range(settings.attempts):
                    for server in settings.servers:
                        found = await self._attempt(server, labels, rtype, settings) or found
                        if found is not None and found[3] & 0xF not in _ASK_NEXT:
                            return found
        return found

    async def _attempt(
        self, server: str, labels: Labels, rtype: int, settings: ResolvConf
    ) -> bytes | None:
        """Return the answer of one resolver, None if it has none in time."""
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(settings.timeout_s):
                answer = await self._over_udp(server, labels, rtype)
                if HEADER.unpack_from(answer)[1] & TC:
                    answer = await self._over_tcp(server, labels, rtype)
                return b"\0\0" + answer[2:]
        return None

    async def _over_udp(self, server: str, labels: Labels, rtype: int) -> bytes:
        ident, loop = secrets.randbelow(1 << 16), asyncio.get_running_loop()
        with await self._connected(server, socket.SOCK_DGRAM) as sock:
            await loop.sock_sendall(sock, build_query(ident, to_text(labels), rtype))
            while True:
                answer = await loop.sock_recv(sock, _MAX_MESSAGE)
                if answers(answer, ident, fold(labels), rtype):
                    return answer

    async def _over_tcp(self, server: str, labels: Labels, rtype: int) -> bytes:
        ident, loop = secrets.randbelow(1 << 16), asyncio.get_running_loop()
        stream = framing.Framing()
        with await self._connected(server, socket.SOCK_STREAM) as sock:
            query = build_query(ident, to_text(labels), rtype)
            await loop.sock_sendall(sock, framing.frame(query))
            while data := await loop.sock_recv(sock, _MAX_MESSAGE):
                for answer in stream.feed(data):
                    if answers(answer, ident, fold(labels), rtype):
                        return answer
        raise ConnectionResetError

    async def _connected(self, server: str, kind: socket.SocketKind) -> socket.socket:
        loop = asyncio.get_running_loop()
        flags = socket.AI_NUMERICHOST
        found = socket.getaddrinfo(server, self._port, type=kind, flags=flags)[0]
        sock = socket.socket(found[0], kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await loop.sock_connect(sock, found[4])
        except BaseException:
            sock.close()
            raise
        return sock
