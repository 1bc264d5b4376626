"""Where a server is, as it was found before its own tunnel answered every question about names.

With names captured, port 53 leads to our resolver, which asks the far end: without a session
nobody could say where to make one. So the addresses of the first resolution are used for as long
as the client runs. A server that has moved is found again by a new `up`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from vpn.client import beside
from vpn.transport.base import Address, OuterSockets, SocketAddress, resolve


class Places:
    """Resolves once."""

    def __init__(self, sockets: OuterSockets) -> None:
        """`sockets` leave beside the tunnel, and beside a kill switch that still holds."""
        self._sockets = sockets
        self._found: Sequence[tuple[socket.AddressFamily, SocketAddress]] = ()

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that were found."""
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
                for one in await beside.addresses_of(address.host, self._sockets):
                    self._found = (*self._found, *await resolve(Address(one, address.port), kind))
                if not self._found:
                    raise
        return self._found
