"""The server's end of QUIC over UDP: one socket, many connections.

Theory of operation
-------------------
A packet belongs to the connection whose ID it carries (RFC 9000, section 5.2). One that starts
a connection is answered with a Retry first (RFC 9000, section 8.1.2): no state is kept, and no
signature made, for a sender that has not shown that it receives at its address. The number of
connections without a stream is bounded; a packet that would start one more is dropped, and the
client sends it again.

A packet of another QUIC version is answered with the version spoken here (RFC 9000, section 6).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from vpn.transport.base import Address, SocketAddress
from vpn.transport.bind import address_of
from vpn.transport.quic import engine
from vpn.transport.quic.config import MAX_HALF_OPEN, Liveness
from vpn.transport.quic.engine import Termination
from vpn.transport.quic.state_machine import StateMachine
from vpn.transport.quic.udp_connection import Owner, UdpConnection
from vpn.transport.quic.udp_port import DatagramReceiver, UdpPort

LONG_HEADER = 0x80  # RFC 9000, section 17.2
MIN_INITIAL_BYTES = 1200  # RFC 9000, section 14.1
CONNECTION_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class LongHeader:
    """What decides about a packet with a long header (RFC 9000, section 17.2)."""

    is_initial: bool
    is_version_known: bool
    destination_id: bytes
    source_id: bytes
    token: bytes


class Acceptor(Protocol):
    """Reads the packets that belong to no connection yet, and makes their answers."""

    def parse(self, data: bytes) -> LongHeader | None:
        """Return the header of a packet that may be answered; None for any other."""
        ...

    def version_negotiation(self, header: LongHeader) -> bytes:
        """Return the packet that tells the versions spoken here (RFC 9000, section 17.2.1)."""
        ...

    def retry(self, header: LongHeader, peer: SocketAddress, source_id: bytes, now: float) -> bytes:
        """Return a Retry packet with a token for `peer` (RFC 9000, section 17.2.5)."""
        ...

    def accept(
        self, header: LongHeader, peer: SocketAddress, now: float
    ) -> tuple[StateMachine, bytes] | None:
        """Return a new connection and its ID, or None if the token is not valid."""
        ...


class UdpServer(DatagramReceiver, Owner):
    """A bound UDP socket and the connections it has accepted."""

    def __init__(
        self,
        bound: socket.socket,
        acceptor: Acceptor,
        accept: Callable[[engine.Connection], None],
        liveness: Liveness,
    ) -> None:
        self._address = address_of(bound)
        self._acceptor = acceptor
        self._accept = accept
        self._liveness = liveness
        self._connections: dict[bytes, UdpConnection] = {}
        self._half_open: set[UdpConnection] = set()
        self._fed: set[UdpConnection] = set()
        self._port = UdpPort(bound, self)

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._address

    async def close(self) -> None:
        """Close every connection with ABORTED, then the socket."""
        for connection in set(self._connections.values()):
            connection.abort()
            connection.stop()
        self._connections.clear()
        self._port.close()
        await asyncio.sleep(0)

    # DatagramReceiver.

    @override
    def on_datagram(self, data: bytes, peer: SocketAddress) -> None:
        if not data:
            return
        if data[0] & LONG_HEADER:
            connection = self._connection_of_long(data, peer)
        else:
            connection = self._connections.get(data[1 : 1 + CONNECTION_ID_BYTES])
        if connection is not None:
            connection.receive(data, peer)
            self._fed.add(connection)

    @override
    def on_batch_end(self) -> None:
        fed, self._fed = self._fed, set()
        for connection in fed:
            connection.advance()

    @override
    def on_socket_error(self, error: OSError) -> None:
        """Nothing to do: it concerns one peer, and loss recovery or silence will tell."""

    # Owner.

    @override
    def on_handshake(self, connection: UdpConnection) -> None:
        """Nothing to do before the client opens the stream."""

    @override
    def on_stream(self, connection: UdpConnection) -> None:
        self._half_open.discard(connection)
        self._accept(connection)

    @override
    def on_end(self, connection: UdpConnection, termination: Termination) -> None:
        self._half_open.discard(connection)

    @override
    def on_gone(self, connection: UdpConnection) -> None:
        connection.stop()
        gone = [name for name, each in self._connections.items() if each is connection]
        for connection_id in gone:
            del self._connections[connection_id]

    @override
    def on_connection_id(
        self, connection: UdpConnection, connection_id: bytes, *, is_valid: bool
    ) -> None:
        if is_valid:
            self._connections[connection_id] = connection
        else:
            self._connections.pop(connection_id, None)

    # Inside.

    def _connection_of_long(self, data: bytes, peer: SocketAddress) -> UdpConnection | None:
        header = self._acceptor.parse(data)
        if header is None:
            return None
        if not header.is_version_known:
            self._port.send([(self._acceptor.version_negotiation(header), peer)])
            return None
        connection = self._connections.get(header.destination_id)
        if connection is None and header.is_initial and len(data) >= MIN_INITIAL_BYTES:
            connection = self._new_connection(header, peer)
        return connection

    def _new_connection(self, header: LongHeader, peer: SocketAddress) -> UdpConnection | None:
        now = time.monotonic()
        if not header.token:
            source_id = os.urandom(CONNECTION_ID_BYTES)
            self._port.send([(self._acceptor.retry(header, peer, source_id, now), peer)])
            return None
        if len(self._half_open) >= MAX_HALF_OPEN:
            return None
        accepted = self._acceptor.accept(header, peer, now)
        if accepted is None:
            return None
        machine, connection_id = accepted
        local = (self._address.host, self._address.port)
        connection = UdpConnection(machine, self, local, self._port.send, self._liveness)
        self._half_open.add(connection)
        self._connections[header.destination_id] = self._connections[connection_id] = connection
        return connection
