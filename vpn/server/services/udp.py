"""The UDP service: a socket for each association of a client.

Theory of operation
-------------------
An association (`vpn.protocol.udp`) has one socket here for as long as it lives, so that all its
datagrams leave from one port, and whoever sends to that port is heard (RFC 4787). What carries its
messages is not its business: a `MessageChannel` does, and ends it.

Each destination is compared with the grant of the login as a connection to it would be; one that is
not granted, reserved names and multicast are answered as a closed port is. A name is resolved once
for an association, in its family, first address; datagrams wait for it meanwhile, up to
`MAX_WAITING`. ICMP errors of real routers go to the client as they come, with the router's address.

Nothing queues: what the client does not take stays in the socket, whose buffer the kernel bounds,
and what the socket does not take is lost, as on any wire.

Bounds: `MAX_ASSOCIATIONS` for a login, and no more of all than half the descriptors that this
process may have, so that connections find one; one more is refused. One that is idle for
`IDLE_S` ends (the client ends it earlier); `MAX_NAMES` for each.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Literal

from vpn.protocol import icmp, udp
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.message_channel import MessageChannel
from vpn.protocol.services import is_reserved
from vpn.protocol.udp import Deliver, Send, Undeliverable
from vpn.server.failures import LOST, from_error
from vpn.server.services.error_queue import FAMILIES
from vpn.server.services.resolver import RESOLVE_TIMEOUT_S, Resolve
from vpn.server.services.socket_poll import SocketPoll
from vpn.server.services.udp_peers import Peers
from vpn.server.services.udp_socket import DatagramSocket
from vpn.ssh.login.login import Login

MAX_ASSOCIATIONS: Final = 2048
MAX_WAITING: Final = 16
MAX_NAMES: Final = 256
IDLE_S: Final = 330.0
TICK_S: Final = 10.0

_BURST: Final = 32
Emit = Callable[[bytes], object]
"""Takes a message for the client, or loses it."""
_HELD: Final = "udp"


class UdpService:
    """The associations of all clients of one server. Make it on a running loop."""

    def __init__(self, resolve: Resolve) -> None:
        self.resolve = resolve
        self._loop = asyncio.get_running_loop()
        self._poll = SocketPoll()
        self._open: set[Association] = set()
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)

    def protocol(
        self, family: Literal[4, 6], login: Login, *, in_datagrams: bool = False
    ) -> asyncio.Protocol:
        """Return the protocol of the channel of a new association. Raises OpenFailed."""
        association = self.begin(login, family, lambda message: channel.send(message))
        channel = MessageChannel(
            udp.MAX_MESSAGE,
            association.on_message,
            association.close,
            in_datagrams=in_datagrams,
            on_pause=association.pause,
            on_resume=association.resume,
        )
        association.on_expired = channel.end
        return channel

    def begin(self, login: Login, family: Literal[4, 6], emit: Emit) -> Association:
        """Return a new association, to be closed. Raises OpenFailed."""
        if login.held[_HELD] >= MAX_ASSOCIATIONS or len(self._open) >= self._most:
            raise OpenFailed(Failure.UNAVAILABLE, "too many associations")
        try:
            sock = DatagramSocket(family)
        except OSError as error:
            raise from_error(error) from error
        association = Association(self, login, family, sock, emit)
        login.held[_HELD] += 1
        self._open.add(association)
        self._poll.add(sock.fileno(), association.on_ready)
        return association

    def watch(self, sock: DatagramSocket, *, is_read: bool) -> None:
        """Call back for datagrams and errors, or only for errors."""
        self._poll.modify(sock.fileno(), is_read=is_read)

    def end(self, association: Association, login: Login, sock: DatagramSocket) -> None:
        """Forget an association that is closing."""
        self._open.discard(association)
        login.held[_HELD] -= 1
        self._poll.remove(sock.fileno())

    def close(self) -> None:
        """End all associations; harmless when closed."""
        self._ticking.cancel()
        for association in list(self._open):
            association.close()
        self._poll.close()

    def _on_tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._on_tick)
        over = self._loop.time() - IDLE_S
        for association in list(self._open):
            if association.last < over:
                association.expire()


@dataclass(slots=True)
class _Name:
    """A name in use. `address` is "" until it is resolved."""

    address: str = ""
    waiting: list[Send] = field(default_factory=list)
    resolving: asyncio.Task[None] | None = None


class Association:
    """A socket of this machine for one local socket of a client's application."""

    def __init__(
        self,
        service: UdpService,
        login: Login,
        family: Literal[4, 6],
        sock: DatagramSocket,
        emit: Emit,
    ) -> None:
        self._service = service
        self._login = login
        self._family: Literal[4, 6] = family
        self._sock = sock
        self._emit = emit
        self._names: dict[str, _Name] = {}
        self._peers = Peers()
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self.last = self._loop.time()
        self.on_expired: Callable[[], None] = self.close
        """Called when it has been idle for too long, to end the channel with it."""

    def expire(self) -> None:
        """End it because it is idle."""
        self.on_expired()

    def on_message(self, message: bytes) -> None:
        """Take what the client says. Raises ValueError if that is no message."""
        sent = udp.decode_request(message)
        if self._is_closed:
            return
        self.last = self._loop.time()
        if is_reserved(sent.host) or self._login.grant.refusal(sent.host, sent.port) is not None:
            self._refuse(sent, Failure.ECONNREFUSED)
            return
        try:
            address = ip_address(sent.host)
        except ValueError:
            self._send_to_name(sent)
            return
        if address.version != self._family:
            self._refuse(sent, Failure.ENETUNREACH)
        elif address.is_multicast or getattr(address, "scope_id", None) is not None:
            self._refuse(sent, Failure.ECONNREFUSED)
        else:
            self._send(sent, str(address))

    def pause(self) -> None:
        """Leave datagrams in the socket: the channel to the client is full."""
        self._service.watch(self._sock, is_read=False)

    def resume(self) -> None:
        """Read datagrams again."""
        if not self._is_closed:
            self._service.watch(self._sock, is_read=True)

    def close(self) -> None:
        """Close the socket; harmless when closed."""
        if self._is_closed:
            return
        self._is_closed = True
        for name in self._names.values():
            if name.resolving is not None:
                name.resolving.cancel()
        self._service.end(self, self._login, self._sock)
        self._sock.close()

    def on_ready(self, events: int) -> None:
        """Send what the socket has to the client. `events` are those of epoll(7)."""
        if events & select.EPOLLERR:
            self._on_errors()
        for _ in range(_BURST if events & select.EPOLLIN else 0):
            received = self._sock.receive()
            if received is None:
                return
            self.last = self._loop.time()
            host = self._peers.host_of(received.address, received.port)
            if received.port:
                self._emit(udp.encode(Deliver(host, received.port, received.payload)))

    def _on_errors(self) -> None:
        for _ in range(_BURST):
            error = self._sock.receive_error()
            if error is None:
                return
            host = self._peers.host_of(error.address, error.port)
            router = host if error.router == error.address else error.router
            said = Undeliverable(host, error.port, error.kind, error.code, error.mtu, router)
            self._emit(udp.encode(said))

    def _send_to_name(self, sent: Send) -> None:
        name = self._names.get(sent.host)
        if name is None:
            if len(self._names) >= MAX_NAMES and not self._forget_a_name():
                return
            name = self._names[sent.host] = _Name()
            name.resolving = self._loop.create_task(self._resolve(sent.host, name))
        if name.address:
            self._send(sent, name.address)
        elif len(name.waiting) < MAX_WAITING:
            name.waiting.append(sent)

    def _forget_a_name(self) -> bool:
        """Forget the oldest name that is resolved."""
        for host, name in self._names.items():
            if name.address:
                del self._names[host]
                return True
        return False

    async def _resolve(self, host: str, name: _Name) -> None:
        """Find the address of a name, and send what waits for it. A failure is not remembered."""
        failure = Failure.NXDOMAIN
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self._service.resolve(host, 0, FAMILIES[self._family])
            if found:
                name.address = str(found[0][1][0]).partition("%")[0]
        except OSError as error:
            failure = from_error(error).failure
        waiting, name.waiting = name.waiting, []
        if not name.address:
            self._names.pop(host, None)
        for sent in waiting:
            if not name.address:
                self._refuse(sent, failure)
            elif ip_address(name.address).is_multicast:
                self._refuse(sent, Failure.ECONNREFUSED)
            else:
                self._send(sent, name.address)

    def _send(self, sent: Send, address: str) -> None:
        self._peers.on_sent(sent.host, address, sent.port)
        try:
            self._sock.send(
                address,
                sent.port,
                sent.hop_limit,
                sent.payload,
                may_fragment=sent.may_fragment,
            )
        except OSError as error:
            # One that is too big is reported by the queue.
            if error.errno not in LOST and error.errno != errno.EMSGSIZE:
                self._refuse(sent, from_error(error).failure)

    def _refuse(self, sent: Send, failure: Failure) -> None:
        error = icmp.error_for(failure, self._family)
        if error is not None:
            self._emit(udp.encode(Undeliverable(sent.host, sent.port, *error, 0, "")))
