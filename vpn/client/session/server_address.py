"""The socket addresses of the server, resolved once for all sessions of this client.

Once names are captured, port 53 leads to the resolver of the tunnel, which asks the far end:
without a session the name of the server could not be resolved. So the addresses of the first
resolution serve for as long as the client runs. A server that has moved is found by a new `up`.

While the kill switch of an earlier instance holds, the resolver of this machine is cut off like
everything else. Its upstream resolvers are asked directly then, over sockets that bypass the kill
switch. They are read from the file that systemd-resolved writes, as /etc/resolv.conf names only
systemd-resolved itself (resolv.conf(5), systemd-resolved.service(8)).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from dns import resolv_conf, upstream
from dns.codes import RRType
from dns.exchange import Exchange
from vpn import stub_resolver
from vpn.transport.base import Address, OuterSockets, SocketAddress, resolve

FILES: Final = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")

_TIMEOUT_S: Final = 2.0
_TYPES: Final = (RRType.A, RRType.AAAA)


class ServerAddress:
    """The addresses of one server, resolved at most once."""

    def __init__(self, sockets: OuterSockets) -> None:
        """`sockets` bypass the tunnel, and a kill switch that still holds."""
        self._sockets = sockets
        self._found: Sequence[tuple[socket.AddressFamily, SocketAddress]] = ()

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses as text; empty before the first resolution."""
        return frozenset(str(where[0]) for _, where in self._found)

    async def resolve(
        self, address: Address, kind: socket.SocketKind
    ) -> Sequence[tuple[socket.AddressFamily, SocketAddress]]:
        """Return the socket addresses of the server. Raises OSError."""
        if not self._found:
            try:
                self._found = await resolve(address, kind)
            except socket.gaierror as error:
                if error.errno != socket.EAI_AGAIN:
                    raise
                for one in await addresses_of(address.host, self._sockets):
                    self._found = (*self._found, *await resolve(Address(one, address.port), kind))
                if not self._found:
                    raise
        return self._found


async def addresses_of(name: str, sockets: OuterSockets) -> list[str]:
    """Return the addresses of a name; none if no resolver has any."""
    for resolver in _resolvers():
        found: list[str] = []
        for rtype in _TYPES:
            with suppress(OSError, ValueError):
                found += await _ask(resolver, name, rtype, sockets)
        if found:
            return found
    return []


def _resolvers() -> Iterator[str]:
    for path in FILES:
        with suppress(OSError):
            for server in resolv_conf.parse(Path(path).read_text(errors="replace")).servers:
                if not ip_address(server).is_loopback:
                    yield server


async def _ask(resolver: str, name: str, rtype: int, sockets: OuterSockets) -> list[str]:
    query = upstream.build_query(0, name, rtype)
    exchange = Exchange(query, [resolver], _TIMEOUT_S, idents=stub_resolver.random_ident)
    answer = await stub_resolver.run(exchange, sockets.outer_socket)
    records = upstream.read_answer(answer, 0, name, rtype).records
    return [str(ip_address(one.data)) for one in records if one.rtype == rtype]
