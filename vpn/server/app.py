"""The composition root of a server: a listener, the SSH sessions, the dialer and the services."""

from __future__ import annotations

import asyncio
from functools import partial

from vpn.identity import Identity
from vpn.protocol.services import ECHO, RESOLVER, UDP, UDP_IN_DATAGRAMS, is_reserved
from vpn.server.dialer import Dialer
from vpn.server.services import table
from vpn.server.services.echo import EchoService
from vpn.server.services.getaddrinfo import Lookups
from vpn.server.services.resolver import ResolverProtocol
from vpn.server.services.system_resolvers import SystemResolvers
from vpn.server.services.udp import UdpService
from vpn.ssh.login import keys
from vpn.ssh.login.authorized_files import Authorized
from vpn.ssh.login.login import Login
from vpn.ssh.session.server import SshAcceptor
from vpn.transport.base import Address, Listener, Listening, Transport
from vpn.transport.pump import Pump


class Server:
    """A server on one transport. Make it with `start`."""

    def __init__(self, identity: Identity, authorized: Authorized) -> None:
        self._dialer = Dialer()
        resolvers = SystemResolvers()
        lookups = Lookups(self._dialer.resolve_routed, resolvers)
        self._echo = EchoService(self._dialer.resolve)
        self._udp = UdpService(self._dialer.resolve)
        self._services: table.Handlers = {
            RESOLVER: lambda _: ResolverProtocol(lookups.resolve, resolvers),
            ECHO: self._echo.protocol,
            UDP[4]: partial(self._udp.protocol, 4),
            UDP[6]: partial(self._udp.protocol, 6),
            UDP_IN_DATAGRAMS[4]: partial(self._udp.protocol, 4, in_datagrams=True),
            UDP_IN_DATAGRAMS[6]: partial(self._udp.protocol, 6, in_datagrams=True),
        }
        self._acceptor = SshAcceptor(keys.of_identity(identity), authorized, self._open_flow)
        self._listener: Listener

    @classmethod
    async def start(
        cls, transport: Transport, listening: Listening, authorized: Authorized
    ) -> Server:
        """Listen, with the identity in `listening`. Raises TransportError.

        `authorized` is asked again for each login.
        """
        server = cls(Identity(listening.identity), authorized)
        try:
            server._listener = await transport.listen(listening, server._acceptor.protocol)
        except BaseException:
            server._close_services()
            raise
        return server

    @property
    def address(self) -> Address:
        """The address it listens on; the port is the bound one."""
        return self._listener.address

    @property
    def flow_count(self) -> int:
        """The number of flows that are open, or being opened."""
        return self._acceptor.flow_count

    async def close(self, drain_s: float = 0.0) -> None:
        """Accept no more, wait up to `drain_s` for the flows to end, then end everything."""
        await self._acceptor.close(drain_s)
        await self._listener.close()
        self._close_services()

    def _close_services(self) -> None:
        self._udp.close()
        self._echo.close()
        self._dialer.close()

    async def _open_flow(self, login: Login, host: str, port: int) -> asyncio.Protocol:
        if is_reserved(host):
            return table.protocol_for(self._services, login, host, port)
        sock = await self._dialer.connect(host, port)
        pump = Pump()
        await pump.attach(sock)
        return pump.far
