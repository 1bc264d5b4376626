"""The client's end of the link to the process that has made a command's namespaces."""

from __future__ import annotations

import socket

from shim.protocol import VERSION, namespace
from shim.protocol.common import Hello, Missing
from shim.protocol.gate import CLIENT_OF_GATE
from shim.protocol.link import Link
from shim.protocol.namespace import InnerSocket, InnerSocketWanted
from vpn.client.shim.requests import RequestLink


class Namespace(RequestLink):
    """The namespaces of one command."""

    missing: tuple[Missing, ...] = ()
    """Features that the kernel lacks; known after `enter`."""

    async def enter(self) -> tuple[Link, tuple[int, int, int]]:
        """Return the link to the gate, and the user, mount and network namespace, once ready."""
        ready, fds = await self.ask(Hello(VERSION), namespace.Namespace)
        self.missing = ready.missing
        gate, user, mount, network = fds
        return (
            Link(socket.socket(fileno=gate), CLIENT_OF_GATE),
            (user, mount, network),
        )

    async def inner_socket(self, family: int) -> socket.socket:
        """Return a TCP socket inside the namespace. `family` is 4 or 6. Raises OSError."""
        return await self.ask_for_socket(InnerSocketWanted(4 if family == 4 else 6), InnerSocket)
