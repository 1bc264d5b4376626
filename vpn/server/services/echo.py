"""The echo service: pings for a client, by ping sockets of this machine.

Theory of operation
-------------------
A channel carries the messages of `vpn.protocol.echo`. Each query of it has a ping socket of its
own, made with its first request, so that the kernel finds out whose a reply is, and nothing of a
request is kept here. Replies and errors go to the client as they come, doubled and out of order if
they do; what does not come is not answered. Nothing waits, so that the times are those of the
network: what the client does not take, or the socket, is lost, as on any wire.

A name is resolved once for a query, its first address taken; requests wait for it meanwhile, up to
`MAX_WAITING`. Each request is compared with the grant of the login, as the port 0, which only rules
for any port permit: who may open one port of a host may not ping it.

Bounds: `MAX_QUERIES` sockets for a login, on all its channels. One more takes the place of the
idlest of its channel; a query that is idle for `IDLE_S` (RFC 5508, REQ-2) is forgotten. All sockets
of a channel are in one epoll(7): libuv takes an error queue for a broken descriptor.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, cast

from vpn.protocol import echo
from vpn.protocol.echo import Failed, Reply, Request
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.services import is_reserved
from vpn.server.failures import LOST, from_error
from vpn.server.services.error_queue import FAMILIES
from vpn.server.services.ping_socket import PingSocket
from vpn.server.services.resolver import Resolve
from vpn.ssh.login.login import Login

logger = logging.getLogger(__name__)

MAX_QUERIES: Final = 256
MAX_WAITING: Final = 16
IDLE_S: Final = 60.0
TICK_S: Final = 5.0
RESOLVE_TIMEOUT_S: Final = 10.0
_BURST: Final = 64

_NO_PORT: Final = 0
_HELD: Final = "echo"


class EchoService:
    """Pings for the clients of one server."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._has_warned = False

    def protocol(self, login: Login) -> asyncio.Protocol:
        """Return the protocol of one channel."""
        return EchoProtocol(self, login)

    def new_pinger(self, family: int) -> PingSocket:
        """Return a ping socket. Raises OSError; that it is forbidden is logged the first time."""
        try:
            return PingSocket(family)
        except PermissionError:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "nobody can ping from here: net.ipv4.ping_group_range leaves out the group of "
                    "this process; see icmp(7)"
                )
            raise

    async def address_of(self, host: str, family: int) -> str:
        """Return an address of a host, itself if it is one. Raises OpenFailed, OSError."""
        try:
            address = ip_address(host)
        except ValueError:
            return await self._look_up(host, family)
        if address.version != family:
            raise OpenFailed(Failure.ENETUNREACH)
        if address.is_multicast:
            raise OpenFailed(Failure.POLICY, "multicast")
        return str(address)

    async def _look_up(self, host: str, family: int) -> str:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await self._resolve(host, _NO_PORT, FAMILIES[family])
        if not found:
            raise OpenFailed(Failure.NXDOMAIN)
        return str(found[0][1][0])


@dataclass(slots=True)
class _Query:
    """One ping of a client. `address` and `pinger` are there once the name is resolved."""

    number: int
    family: int
    host: str
    last: float
    address: str = ""
    pinger: PingSocket | None = None
    waiting: list[Request] = field(default_factory=list)
    opening: asyncio.Task[None] | None = None


class EchoProtocol(asyncio.Protocol):
    """One channel to the service."""

    def __init__(self, service: EchoService, login: Login) -> None:
        self._service = service
        self._login = login
        self._loop = asyncio.get_running_loop()
        self._requests = echo.Requests()
        self._queries: OrderedDict[int, _Query] = OrderedDict()
        self._by_fd: dict[int, _Query] = {}
        self._poll = select.epoll()
        self._transport: asyncio.Transport
        self._ticking: asyncio.TimerHandle
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to ping."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop.add_reader(self._poll.fileno(), self._on_events)
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)

    def data_received(self, data: bytes) -> None:
        """Send the requests that are complete."""
        try:
            requests = self._requests.feed(data)
        except ValueError:
            self._transport.abort()
            return
        for request in requests:
            self._on_request(request)

    def pause_writing(self) -> None:
        """Let replies be lost: the client does not take them."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Pass replies on again."""
        self._is_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._ticking.cancel()
        self._loop.remove_reader(self._poll.fileno())
        for query in list(self._queries.values()):
            self._forget(query)
        self._poll.close()

    def _on_request(self, request: Request) -> None:
        refused = is_reserved(request.host)
        if refused or self._login.grant.refusal(request.host, _NO_PORT) is not None:
            self._say_of(request, Failure.POLICY)
            return
        query = self._queries.get(request.query)
        if query is None or (query.host, query.family) != (request.host, request.family):
            if query is not None:
                self._forget(query)
            query = self._begin(request)
        if query is None:
            return
        query.last = self._loop.time()
        self._queries.move_to_end(query.number)
        if query.pinger is not None:
            self._send(query, query.pinger, request)
        elif len(query.waiting) < MAX_WAITING:
            query.waiting.append(request)

    def _begin(self, request: Request) -> _Query | None:
        """Return a new query, or None if this login has too many on other channels."""
        if self._login.held[_HELD] >= MAX_QUERIES:
            if not self._queries:
                return None
            self._forget(next(iter(self._queries.values())))
        query = _Query(request.query, request.family, request.host, self._loop.time())
        self._queries[query.number] = query
        self._login.held[_HELD] += 1
        query.opening = self._loop.create_task(self._open(query))
        return query

    async def _open(self, query: _Query) -> None:
        try:
            query.address = await self._service.address_of(query.host, query.family)
            pinger = self._service.new_pinger(query.family)
        except OpenFailed as failed:
            self._fail(query, failed.failure)
            return
        except OSError as error:
            self._fail(query, from_error(error).failure)
            return
        query.pinger = pinger
        self._by_fd[pinger.fileno()] = query
        self._poll.register(pinger, select.EPOLLIN)
        for request in query.waiting:
            self._send(query, pinger, request)
        query.waiting.clear()

    def _send(self, query: _Query, pinger: PingSocket, request: Request) -> None:
        try:
            pinger.send(
                query.address,
                request.hop_limit,
                request.sequence,
                request.payload,
                may_fragment=request.may_fragment,
            )
        except OSError as error:
            if error.errno not in LOST:
                self._say_of(request, from_error(error).failure)

    def _fail(self, query: _Query, failure: Failure) -> None:
        """Say why there can be no pinging; the next request is another try."""
        self._forget(query)
        for request in query.waiting:
            self._say_of(request, failure)

    def _say_of(self, request: Request, failure: Failure) -> None:
        error = echo.error_for(failure, request.family)
        if error is not None:
            self._write(Failed(request.query, request.sequence, *error, 0, ""))

    def _on_events(self) -> None:
        for fd, events in self._poll.poll(0):
            query = self._by_fd.get(fd)
            if query is None or query.pinger is None:
                continue
            if events & select.EPOLLERR:
                self._on_errors(query, query.pinger)
            if events & select.EPOLLIN:
                self._on_answers(query, query.pinger)

    def _on_answers(self, query: _Query, pinger: PingSocket) -> None:
        for _ in range(_BURST):
            answer = pinger.receive()
            if answer is None:
                return
            query.last = self._loop.time()
            source = query.host if answer.address == query.address else answer.address
            self._write(
                Reply(query.number, answer.sequence, answer.hop_limit, source, answer.payload)
            )

    def _on_errors(self, query: _Query, pinger: PingSocket) -> None:
        for _ in range(_BURST):
            error = pinger.receive_error()
            if error is None:
                return
            router = query.host if error.router == query.address else error.router
            self._write(
                Failed(query.number, error.sequence, error.kind, error.code, error.mtu, router)
            )

    def _write(self, message: Reply | Failed) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._transport.write(echo.frame(message))

    def _on_tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)
        now = self._loop.time()
        for query in list(self._queries.values()):
            if now - query.last > IDLE_S:
                self._forget(query)

    def _forget(self, query: _Query) -> None:
        if self._queries.get(query.number) is not query:
            return
        del self._queries[query.number]
        self._login.held[_HELD] -= 1
        if query.pinger is not None:
            self._poll.unregister(query.pinger)
            del self._by_fd[query.pinger.fileno()]
            query.pinger.close()
        elif query.opening is not None and query.opening is not asyncio.current_task(self._loop):
            query.opening.cancel()
