"""The resolver service: names as this machine resolves them, in DNS messages over a channel.

Addresses are those of getaddrinfo(3), so that a name means to the client what it means to this
machine: /etc/hosts, search order and split horizons included. Records of other types come from the
resolvers of this machine (`system_resolvers.py`), without search order. If they say NXDOMAIN for a
name that getaddrinfo(3) finds, the answer is NODATA.

One name is the service's own: its TXT record has the search domains of this machine.

At most `MAX_PENDING` questions of a channel are worked on; then reading stops until one is
answered. So that names with silent resolvers do not hold up all others, questions that have been
worked on for `PATIENCE_S` fail while there are that many.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Protocol, cast

from typing_extensions import override

from dns import framing, response, search
from dns.codes import IN, ExtendedError, RCode, RRType
from dns.disposition import is_data
from dns.message import Malformed, Query, parse_query
from dns.names import Labels, fold, host_name, matches_suffix, to_text, to_wire
from dns.records import Record
from dns.resolv_conf import ResolvConf
from dns.upstream import Answer, Outcome
from vpn.protocol.services import DOMAIN, SEARCH
from vpn.server.failures import NO_ADDRESS

MAX_PENDING = 128
PATIENCE_S = 1.0
RESOLVE_TIMEOUT_S = 10.0
"""For the one name of a ping or a datagram."""
MAX_QUERY = 4096
SEARCH_TTL_S = 1
_OURS = tuple(DOMAIN[1:].encode().split(b"."))
_FAMILIES: dict[int, socket.AddressFamily] = {
    RRType.A: socket.AF_INET,
    RRType.AAAA: socket.AF_INET6,
}

Resolve = Callable[
    [str, int, socket.AddressFamily],
    Awaitable[list[tuple[socket.AddressFamily, tuple[Any, ...]]]],
]
"""Returns the addresses of a name. Raises gaierror."""


class StubResolver(Protocol):
    """The resolvers of this machine, for types other than addresses."""

    def settings(self) -> ResolvConf:
        """Return the resolver configuration of this machine."""
        ...

    async def ask(self, labels: Labels, rtype: int) -> bytes | None:
        """Return an answer with the identifier 0, None if there is none."""
        ...


class ResolverProtocol(asyncio.Protocol):
    """One channel to the resolver."""

    def __init__(self, resolve: Resolve, stub: StubResolver) -> None:
        self._resolve = resolve
        self._stub = stub
        self._framing = framing.Framing(MAX_QUERY)
        self._waiting: deque[bytes] = deque()
        self._pending: dict[asyncio.Task[None], float] = {}
        self._making_room: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._has_ended = False
        self._is_paused = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @override
    def data_received(self, data: bytes) -> None:
        try:
            messages = self._framing.feed(data)
        except ValueError:
            self._transport.abort()
            return
        self._waiting.extend(messages)
        self._work()

    @override
    def pause_writing(self) -> None:
        # The client does not take its answers: no more questions are worked on.
        self._is_paused = True
        self._transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        if not self._transport.is_closing():
            self._work()

    @override
    def eof_received(self) -> bool:
        # The questions before the end are still answered.
        self._has_ended = True
        return bool(self._pending or self._waiting)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._making_room is not None:
            self._making_room.cancel()
        for task in self._pending:
            task.cancel()

    def _work(self) -> None:
        """Start on waiting questions while there is room, and read more if some is left."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._has_room:
            task = loop.create_task(self._answer(self._waiting.popleft()))
            self._pending[task] = loop.time()
            task.add_done_callback(self._on_answered)
        if self._has_room:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
            self._make_room()

    @property
    def _has_room(self) -> bool:
        return len(self._pending) < MAX_PENDING and not self._is_paused

    def _make_room(self) -> None:
        """Cancel questions that are older than `PATIENCE_S`, now and when the next one will be."""
        loop = asyncio.get_running_loop()
        if self._making_room is not None:
            self._making_room.cancel()
        if len(self._pending) < MAX_PENDING:
            return
        for task, since_s in self._pending.items():
            if loop.time() < since_s + PATIENCE_S:
                self._making_room = loop.call_at(since_s + PATIENCE_S, self._make_room)
                return
            task.cancel()

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        if self._transport.is_closing():
            return
        if self._has_ended and not self._pending and not self._waiting:
            self._transport.close()
        else:
            self._work()

    async def _answer(self, message: bytes) -> None:
        query = parse_query(message)
        if query is None:
            return
        if isinstance(query, Malformed):
            reply = response.malformed(query)
        else:
            try:
                reply = await self._ask(query)
            except asyncio.CancelledError:  # to make room, or because the channel is lost
                reply = _failed(query)
        if not self._transport.is_closing():
            self._transport.write(framing.frame(reply))

    async def _ask(self, query: Query) -> bytes:
        if query.qclass != IN or not is_data(query.qtype):
            return response.error(
                query, RCode.NOTIMP, ExtendedError.NOT_SUPPORTED, "only records of class IN"
            )
        if matches_suffix(fold(query.labels), _OURS):
            return self._answer_own_name(query)
        family = _FAMILIES.get(query.qtype)
        if family is None:
            return await self._ask_stub(query)
        return await self._ask_for_addresses(query, family)

    def _answer_own_name(self, query: Query) -> bytes:
        if to_text(fold(query.labels)) != SEARCH:
            return response.nx_domain(query)
        domains = search.chosen(self._stub.settings().search)
        if query.qtype != RRType.TXT or not domains:
            return response.no_data(query)
        owner = to_wire(query.labels)
        record = Record(owner, RRType.TXT, IN, SEARCH_TTL_S, search.write(domains))
        return response.far(query, Answer(Outcome.FOUND, 0, (record,)), over_tcp=True)

    async def _ask_stub(self, query: Query) -> bytes:
        found = await self._stub.ask(fold(query.labels), query.qtype)
        if found is None:
            return _failed(query)
        if found[3] & 0xF == RCode.NXDOMAIN:
            host = host_name(fold(query.labels))
            if host is not None and await self._exists(host):
                return response.no_data(query)
        return query.id.to_bytes(2) + found[2:]

    async def _ask_for_addresses(self, query: Query, family: socket.AddressFamily) -> bytes:
        name = ".".join(label.decode("ascii", "replace") for label in query.labels)
        try:
            found = await self._resolve(name, 0, family)
        except OSError as error:  # gaierror, or no descriptor is left
            if error.errno in NO_ADDRESS:
                return response.no_data(query)
            if error.errno != socket.EAI_NONAME:
                return _failed(query)
            exists = await self._exists(name)
            return response.no_data(query) if exists else response.nx_domain(query)
        return response.addresses(
            query, [ip_address(address[0]) for _, address in found], over_tcp=True
        )

    async def _exists(self, name: str) -> bool:
        """Return whether a name exists: glibc returns NONAME also if it only lacks a family."""
        try:
            await self._resolve(name, 0, socket.AF_UNSPEC)
        except OSError as error:
            return error.errno in NO_ADDRESS
        return True


def _failed(query: Query) -> bytes:
    why, text = ExtendedError.NO_REACHABLE_AUTHORITY, "the resolver failed"
    return response.error(query, RCode.SERVFAIL, why, text)
