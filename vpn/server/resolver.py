"""The resolver service: whether names exist here, asked in DNS messages over a channel.

Answers are getaddrinfo(3)'s, so that a name means to the client what it means to this machine:
/etc/hosts, search order and split horizons included. Only A and AAAA can be asked that way; every
other type is NOTIMP, so that nobody mistakes ignorance for absence.

One question at a time is read from each channel, and `MAX_PENDING` are worked on; then reading
stops until one is answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, cast

from dns import answer, framing
from dns.codes import IN, ExtendedError, RCode, RRType
from dns.message import Malformed, Query, parse_query
from vpn.server.errors import NO_ADDRESS

MAX_PENDING = 64
MAX_QUERY = 4096
_FAMILIES: dict[int, socket.AddressFamily] = {
    RRType.A: socket.AF_INET,
    RRType.AAAA: socket.AF_INET6,
}

Resolve = Callable[
    [str, int, socket.AddressFamily],
    Awaitable[list[tuple[socket.AddressFamily, tuple[Any, ...]]]],
]
"""Returns the addresses of a name. Raises gaierror."""


class ResolverProtocol(asyncio.Protocol):
    """One channel to the resolver."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._framing = framing.Framing(MAX_QUERY)
        self._pending: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Work on the questions that are complete."""
        try:
            messages = self._framing.feed(data)
        except ValueError:
            self._transport.abort()
            return
        for message in messages:
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._pending.add(task)
            task.add_done_callback(self._on_answered)
        if len(self._pending) >= MAX_PENDING:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Answer what is still being worked on, then close."""
        self._has_ended = True
        return bool(self._pending)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop working for nobody."""
        for task in self._pending:
            task.cancel()

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        if self._has_ended and not self._pending:
            self._transport.close()
        elif len(self._pending) < MAX_PENDING and not self._transport.is_closing():
            self._transport.resume_reading()

    async def _answer(self, message: bytes) -> None:
        query = parse_query(message)
        if query is None:
            return
        reply = answer.malformed(query) if isinstance(query, Malformed) else await self._ask(query)
        if not self._transport.is_closing():
            self._transport.write(framing.frame(reply))

    async def _ask(self, query: Query) -> bytes:
        family = _FAMILIES.get(query.qtype) if query.qclass == IN else None
        if family is None:
            return answer.error(
                query, RCode.NOTIMP, ExtendedError.NOT_SUPPORTED, "only A and AAAA are known here"
            )
        name = ".".join(label.decode("ascii", "replace") for label in query.labels)
        try:
            found = await self._resolve(name, 0, family)
        except socket.gaierror as error:
            if error.errno in NO_ADDRESS:
                return answer.no_data(query)
            if error.errno != socket.EAI_NONAME:
                return answer.error(
                    query,
                    RCode.SERVFAIL,
                    ExtendedError.NO_REACHABLE_AUTHORITY,
                    "the resolver failed",
                )
            exists = await self._exists(name)
            return answer.no_data(query) if exists else answer.nx_domain(query)
        return answer.addresses(
            query, [ip_address(address[0]) for _, address in found], over_tcp=True
        )

    async def _exists(self, name: str) -> bool:
        """Return whether a name exists: glibc says NONAME, too, where one family is missing."""
        try:
            await self._resolve(name, 0, socket.AF_UNSPEC)
        except socket.gaierror as error:
            return error.errno in NO_ADDRESS
        return True
