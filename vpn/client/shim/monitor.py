"""The client's end of the link to the monitor: requests for what needs CAP_NET_ADMIN."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network, IPv6Network

from shim import protocol
from shim.protocol.common import Hello, Missing
from shim.protocol.gate import CLIENT_OF_GATE
from shim.protocol.link import Link
from shim.protocol.monitor import (
    Capture,
    Captured,
    Down,
    Mark,
    Marked,
    Pause,
    Paused,
    Prefix,
    Welcome,
)
from vpn.client.shim.requests import RequestLink
from vpn.errors import OverlayError
from vpn.transport.base import PlainSockets


class Monitor(RequestLink):
    """The monitor of `up`."""

    missing: tuple[Missing, ...] = ()
    """Features that the kernel lacks: for the client, and after `hello` also for the shim."""

    async def hello(self) -> tuple[Link, socket.socket]:
        """Greet the monitor; returns the link to the gate, and the listener for control clients."""
        welcome, (gate, control) = await self.ask(Hello(protocol.VERSION), Welcome)
        self.missing = tuple(dict.fromkeys((*self.missing, *welcome.missing)))
        return (
            Link(socket.socket(fileno=gate), CLIENT_OF_GATE),
            socket.socket(fileno=control),
        )

    async def capture(
        self,
        *,
        everything: bool,
        names: bool,
        kill_switch: bool,
        lan: bool,
        prefixes: tuple[IPv4Network | IPv6Network, ...],
    ) -> None:
        """Route traffic through the tunnel; see `shim.protocol.monitor.Capture`."""
        packed = tuple(Prefix(net.network_address.packed, net.prefixlen) for net in prefixes)
        await self.ask(Capture(everything, names, packed, kill_switch, lan), Captured)

    async def pause(self, seconds: int) -> None:
        """Let all traffic bypass the tunnel for some seconds; 0 ends that."""
        await self.ask(Pause(seconds), Paused)

    async def outer_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        """Return a socket whose packets bypass the tunnel (socket(7), SO_MARK). Raises OSError."""
        sock = await PlainSockets().outer_socket(family, kind)
        try:
            await self.ask(Mark(), Marked, os.dup(sock.fileno()))
        except BaseException as error:
            sock.close()
            if isinstance(error, OverlayError):
                raise OSError(str(error)) from error
            raise
        return sock

    def down(self) -> None:
        """Lift the kill switch and undo all changes; `closed` is done when that is under way."""
        self._link.send(Down())
