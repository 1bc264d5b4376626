"""The echo service: pings for a client, by ping sockets of this machine.

Theory of operation
-------------------
A channel carries the messages of `vpn.protocol.echo`. Each query of it has a ping socket of its
own, made with its first request, so that the kernel finds out whose a reply is, and nothing of a
request is kept here. Replies and errors go to the client as they come, doubled and out of order if
they do; a request that nobody answers is not answered. Nothing waits, so that the times are those
of the network: what the client does not take, or the socket, is lost, as on any wire.

A name is resolved once for a query, its first address taken; requests wait for it meanwhile, up to
`MAX_WAITING`. Each request is compared with the grant of the login, as the port 0, which only rules
for any port permit: who may open one port of a host may not ping it.

Bounds: `MAX_QUERIES` sockets for a login, on all its channels. One more takes the place of the
idlest of its channel; a query that is idle for `IDLE_S` (RFC 5508, REQ-2) is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Final

from vpn.protocol import echo
from vpn.protocol.echo import Failed, Reply, Request
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.message_channel import MessageChannel
from vpn.protocol.services import is_reserved
from vpn.server.failures import LOST, from_error
from vpn.server.services.error_queue import FAMILIES
from vpn.server.services.ping_socket import PingSocket
from vpn.server.services.resolver import RESOLVE_TIMEOUT_S, Resolve
from vpn.server.services.socket_poll import SocketPoll
from vpn.ssh.login.login import Login

logger = logging.getLogger(__name__)

MAX_QUERIES: Final = 256
MAX_WAITING: Final = 16
IDLE_S: Final = 60.0
TICK_S: Final = 5.0
_BURST: Final = 64

_HELD: Final = "echo"


class EchoService:
    """Pings for the clients of one server. Make it on a running loop."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._loop = asyncio.get_running_loop()
        self._open: set[Queries] = set()
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)
        self._has_warned = False
        self.poll = SocketPoll()

    def protocol(self, login: Login) -> asyncio.Protocol:
        """Return the protocol of one channel."""
        queries = Queries(self, login, lambda message: channel.send(message))
        self._open.add(queries)
        channel = MessageChannel(echo.MAX_MESSAGE, queries.on_message, queries.close)
        return channel

    def new_socket(self, family: int) -> PingSocket:
        """Return a ping socket. Raises OSError; that it is forbidden is logged the first time."""
        try:
            return PingSocket(family)
        except PermissionError:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "ICMP echo is not available: net.ipv4.ping_group_range does not include the "
                    "group of this process; see icmp(7)"
                )
            raise

    async def address_of(self, host: str, family: int) -> str:
        """Return an address of a host, itself if it is one. Raises OpenFailed, OSError.

        Refused is multicast, under whatever name.
        """
        try:
            address = ip_address(host)
        except ValueError:
            address = ip_address(await self._look_up(host, family))
        if address.version != family:
            raise OpenFailed(Failure.ENETUNREACH)
        if address.is_multicast:
            raise OpenFailed(Failure.POLICY, "multicast")
        return str(address)

    def end(self, queries: Queries) -> None:
        """Forget the queries of a channel that is closing."""
        self._open.discard(queries)

    def close(self) -> None:
        """End all queries; harmless when closed."""
        self._ticking.cancel()
        for queries in list(self._open):
            queries.close()
        self.poll.close()

    async def _look_up(self, host: str, family: int) -> str:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await self._resolve(host, echo.NO_PORT, FAMILIES[family])
        if not found:
            raise OpenFailed(Failure.NXDOMAIN)
        return str(found[0][1][0])

    def _on_tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)
        for queries in self._open:
            queries.forget_idle(self._loop.time() - IDLE_S)


@dataclass(eq=False, slots=True)
class _Query:
    """One ping of a client. `address` and `sock` are there once the name is resolved."""

    number: int
    family: int
    host: str
    last: float
    address: str = ""
    sock: PingSocket | None = None
    waiting: list[Request] = field(default_factory=list)
    opening: asyncio.Task[None] | None = None


class Queries:
    """The queries of one channel."""

    def __init__(self, service: EchoService, login: Login, emit: Callable[[bytes], object]) -> None:
        """`emit` takes a message for the client, or loses it."""
        self._service = service
        self._login = login
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._queries: OrderedDict[int, _Query] = OrderedDict()

    def on_message(self, message: bytes) -> None:
        """Take what the client says. Raises ValueError if that is no message."""
        request = echo.decode_request(message)
        is_ours = is_reserved(request.host)
        if is_ours or self._login.grant.refusal(request.host, echo.NO_PORT) is not None:
            self._refuse(request, Failure.POLICY)
            return
        query = self._query_of(request)
        if query is None:
            return
        self._use(query)
        if query.sock is not None:
            self._send(query, query.sock, request)
        elif len(query.waiting) < MAX_WAITING:
            query.waiting.append(request)

    def forget_idle(self, since: float) -> None:
        """Forget the queries without a request or a reply since a time of the loop."""
        for query in list(self._queries.values()):
            if query.last < since:
                self._forget(query)

    def close(self) -> None:
        """Forget all queries; harmless when closed."""
        self._service.end(self)
        for query in list(self._queries.values()):
            self._forget(query)

    def _query_of(self, request: Request) -> _Query | None:
        """Return the query of a request, None if the login has too many on other channels."""
        query = self._queries.get(request.query)
        if query is not None:
            if (query.host, query.family) == (request.host, request.family):
                return query
            self._forget(query)
        if self._login.held[_HELD] >= MAX_QUERIES:
            if not self._queries:
                return None
            self._forget(next(iter(self._queries.values())))
        query = _Query(request.query, request.family, request.host, self._loop.time())
        self._queries[query.number] = query
        self._login.held[_HELD] += 1
        query.opening = self._loop.create_task(self._open(query))
        return query

    def _use(self, query: _Query) -> None:
        """Note a request or a reply: the table is in the order of the last one."""
        query.last = self._loop.time()
        self._queries.move_to_end(query.number)

    async def _open(self, query: _Query) -> None:
        try:
            query.address = await self._service.address_of(query.host, query.family)
            sock = self._service.new_socket(query.family)
        except OpenFailed as failed:
            self._fail(query, failed.failure)
            return
        except OSError as error:
            self._fail(query, from_error(error).failure)
            return
        query.sock = sock
        self._service.poll.add(sock.fileno(), partial(self._on_ready, query, sock))
        for request in query.waiting:
            self._send(query, sock, request)
        query.waiting.clear()

    def _fail(self, query: _Query, failure: Failure) -> None:
        """Report that there can be no pinging; the next request is another try."""
        self._forget(query)
        for request in query.waiting:
            self._refuse(request, failure)

    def _send(self, query: _Query, sock: PingSocket, request: Request) -> None:
        try:
            sock.send(
                query.address,
                request.hop_limit,
                request.sequence,
                request.payload,
                may_fragment=request.may_fragment,
            )
        except OSError as error:
            if error.errno not in LOST:
                self._refuse(request, from_error(error).failure)

    def _refuse(self, request: Request, failure: Failure) -> None:
        error = echo.error_for(failure, request.family)
        if error is not None:
            self._emit(echo.encode(Failed(request.query, request.sequence, *error, 0, "")))

    def _on_ready(self, query: _Query, sock: PingSocket, events: int) -> None:
        if events & select.EPOLLERR:
            self._on_errors(query, sock)
        if events & select.EPOLLIN:
            self._on_answers(query, sock)

    def _on_errors(self, query: _Query, sock: PingSocket) -> None:
        for _ in range(_BURST):
            error = sock.receive_error()
            if error is None:
                return
            router = query.host if error.router == query.address else error.router
            self._emit(
                echo.encode(
                    Failed(query.number, error.sequence, error.kind, error.code, error.mtu, router)
                )
            )

    def _on_answers(self, query: _Query, sock: PingSocket) -> None:
        for _ in range(_BURST):
            answer = sock.receive()
            if answer is None:
                return
            self._use(query)
            source = query.host if answer.address == query.address else answer.address
            self._emit(
                echo.encode(
                    Reply(query.number, answer.sequence, answer.hop_limit, source, answer.payload)
                )
            )

    def _forget(self, query: _Query) -> None:
        if self._queries.get(query.number) is not query:
            return
        del self._queries[query.number]
        self._login.held[_HELD] -= 1
        if query.sock is not None:
            self._service.poll.remove(query.sock.fileno())
            query.sock.close()
        elif query.opening is not None and query.opening is not asyncio.current_task(self._loop):
            query.opening.cancel()
