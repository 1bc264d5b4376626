"""The client's end of QUIC over UDP: one socket with one connection."""

from __future__ import annotations

import asyncio
import socket

from typing_extensions import override

from vpn.transport.base import SocketAddress
from vpn.transport.quic.config import Liveness
from vpn.transport.quic.engine import REFUSED, ConnectionClosedError, Origin, Termination
from vpn.transport.quic.state_machine import StateMachine
from vpn.transport.quic.udp_connection import Owner, UdpConnection
from vpn.transport.quic.udp_port import DatagramReceiver, UdpPort


class UdpClient(DatagramReceiver, Owner):
    """A connected socket and its connection, from the first packet until the socket is closed."""

    def __init__(self, udp: socket.socket, machine: StateMachine, liveness: Liveness) -> None:
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        local = udp.getsockname()
        self._port = UdpPort(udp, self)
        self.connection = UdpConnection(machine, self, local, self._port.send, liveness)

    async def handshake(self) -> None:
        """Send the first packet and wait until the server's key is proven.

        Raises OSError or ConnectionClosedError; the connection is then closed.
        """
        try:
            self.connection.transmit()
            await self._handshake
        except BaseException:
            self.connection.close(REFUSED)
            raise

    # DatagramReceiver.

    @override
    def on_datagram(self, data: bytes, peer: SocketAddress) -> None:
        self.connection.receive(data, peer)

    @override
    def on_batch_end(self) -> None:
        self.connection.advance()

    @override
    def on_socket_error(self, error: OSError) -> None:
        # Only a handshake believes it: later, an ICMP error may be forged, or pass.
        if not self._handshake.done():
            self._handshake.set_exception(error)

    # Owner.

    @override
    def on_handshake(self, connection: UdpConnection) -> None:
        if not self._handshake.done():
            self._handshake.set_result(None)

    @override
    def on_stream(self, connection: UdpConnection) -> None:
        """Cannot come: the client's limits let a server open no stream."""

    @override
    def on_end(self, connection: UdpConnection, termination: Termination) -> None:
        if not self._handshake.done():
            self._handshake.set_exception(_error_of(termination))
        # No closing period: the kernel answers what still comes (ICMP).
        connection.stop()
        self._port.close()

    @override
    def on_gone(self, connection: UdpConnection) -> None:
        """Nothing is left: `on_end` has closed the socket."""

    @override
    def on_connection_id(
        self, connection: UdpConnection, connection_id: bytes, *, is_valid: bool
    ) -> None:
        """Nothing to route: the socket has one connection."""


def _error_of(termination: Termination) -> Exception:
    if termination.origin is Origin.SILENCE:
        return TimeoutError(termination.reason)
    return ConnectionClosedError(termination)
