"""The client's side of the monitor: asks for what needs a capability."""

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
from vpn.client.shim.requests import Shim
from vpn.errors import OverlayError
from vpn.transport.base import PlainSockets


class Monitor(Shim):
    """Speaks with the monitor of `up`."""

    missing: tuple[Missing, ...] = ()
    """What the client does without, and once it has answered, the privileged side."""

    async def hello(self) -> tuple[Link, socket.socket]:
        """Introduce ourselves. Returns the link to the gate and the listener for the CLI."""
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
        """Route these through the tunnel; `lan` leaves the local network beside a kill switch."""
        packed = tuple(Prefix(net.network_address.packed, net.prefixlen) for net in prefixes)
        await self.ask(Capture(everything, names, packed, kill_switch, lan), Captured)

    async def pause(self, seconds: int) -> None:
        """Let everything pass beside the tunnel for a while; 0 ends that."""
        await self.ask(Pause(seconds), Paused)

    async def outer_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        """Return a socket whose packets leave beside the tunnel. Raises OSError."""
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
        """Have everything taken down; `closed` is done when the monitor has heard it."""
        self._link.send(Down())
