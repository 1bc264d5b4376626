"""The client's side of a command's namespace."""

from __future__ import annotations

import socket

from shim import protocol
from shim.protocol import Hello, InnerSocket, InnerSocketWanted, Link
from vpn.client.shim import Shim


class Namespace(Shim):
    """Speaks with the process that made the namespaces."""

    async def enter(self) -> tuple[Link, tuple[int, int, int]]:
        """Wait until they are ready: the link to the gate; the user, mount and network one."""
        _, fds = await self.ask(Hello(protocol.VERSION), protocol.Namespace)
        gate, user, mount, network = fds
        return (
            Link(socket.socket(fileno=gate), protocol.CLIENT_OF_GATE),
            (user, mount, network),
        )

    async def inner_socket(self, family: int) -> socket.socket:
        """Return a TCP socket inside the namespace. `family` is 4 or 6. Raises OSError."""
        return await self.ask_for_socket(InnerSocketWanted(4 if family == 4 else 6), InnerSocket)
