"""DNS servers that are played on the loopback, over UDP and TCP at one port."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from transport_lab import free_port

from dns.framing import frame

FORMERR, SERVFAIL, TRUNCATED = 1, 2, 0x0200
Behaviour = Callable[[bytes, bool], list[bytes]]
"""What a server sends for a query that came, or came not, over TCP."""


def address(number: int) -> str:
    """An address that no other test has at the same time, of 1 to 254."""
    return f"127.{os.getpid() >> 8 & 0x7F | 1}.{os.getpid() & 0xFF}.{number}"


def answer(query: bytes, flags: int = 0, records: bytes = b"") -> bytes:
    """An answer without OPT, with at most one record."""
    end = query.index(b"\0", 12) + 5
    counts = bytes((0, 1, 0, bool(records), 0, 0, 0, 0))
    return query[:2] + (0x8180 | flags).to_bytes(2) + counts + query[12:end] + records


def good(query: bytes, over_tcp: bool) -> list[bytes]:
    return [answer(query)]


def silent(query: bytes, over_tcp: bool) -> list[bytes]:
    return []


def failing(query: bytes, over_tcp: bool) -> list[bytes]:
    return [answer(query, SERVFAIL)]


def long(query: bytes, over_tcp: bool) -> list[bytes]:
    """Too long for a datagram."""
    return [answer(query, 0 if over_tcp else TRUNCATED)]


def ending(query: bytes, over_tcp: bool) -> list[bytes]:
    """Too long for a datagram, and then the connection ends."""
    return [] if over_tcp else [answer(query, TRUNCATED)]


def lying(query: bytes, over_tcp: bool) -> list[bytes]:
    """Answers of strangers come first: none of them is taken."""
    whole = answer(query)
    another = whole[:13] + bytes((whole[13] ^ 1,)) + whole[14:]
    return [b"", b"\0" * 11, bytes((whole[0] ^ 1,)) + whole[1:], another, whole[:14], whole]


class DnsServer(asyncio.DatagramProtocol):
    """A server. `asked` has the protocol and the source port of each query."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.asked: list[tuple[str, int]] = []
        self.queries: list[bytes] = []
        self._changed = asyncio.Event()

    @property
    def protocols(self) -> list[str]:
        return [protocol for protocol, _ in self.asked]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for each in self._answers(data, "udp", addr[1]):
            self._transport.sendto(each, addr)

    async def on_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        for each in self._answers(query, "tcp", writer.get_extra_info("peername")[1]):
            writer.write(frame(each))
        writer.close()

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            self._changed.clear()
            await self._changed.wait()

    def _answers(self, query: bytes, protocol: str, port: int) -> list[bytes]:
        self.queries.append(query)
        self.asked.append((protocol, port))
        self._changed.set()
        return self.behaviour(query, protocol == "tcp")


class Servers:
    """Servers with addresses of their own at one port."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.servers = [DnsServer(one) for one in behaviours]
        self.addresses = [address(number) for number in range(1, 1 + len(behaviours))]
        self.port = free_port(socket.SOCK_STREAM)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Servers:
        for host, server in zip(self.addresses, self.servers, strict=True):
            await self._serve(host, server)
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._stack.aclose()

    async def _serve(self, host: str, server: DnsServer) -> None:
        loop = asyncio.get_running_loop()
        where = host, self.port
        transport, _ = await loop.create_datagram_endpoint(lambda: server, where)
        self._stack.callback(transport.close)
        await self._stack.enter_async_context(await asyncio.start_server(server.on_stream, *where))
