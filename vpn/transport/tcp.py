"""Streams over TCP (RFC 9293): to any sshd, or to our own server."""

from __future__ import annotations

import asyncio
import socket
import struct
import weakref
from typing import Any, cast

from typing_extensions import override

from vpn.transport import base
from vpn.transport.bind import LISTEN_BACKLOG, address_of, bound_socket, plain_name
from vpn.transport.dial import dial
from vpn.transport.stream import ProtocolDriver

MAX_SEGMENT_BYTES = 1220
"""The IPv6 minimum MTU, 1280, less the IPv6 and TCP headers: fits every path (RFC 8200, 5).

tcp(7), TCP_MAXSEG: asked of the peer as well. Without it a path that drops larger packets in
silence stops the session for good, as the kernel does not probe unless it is told to
(ip-sysctl.txt, tcp_mtu_probing).
"""

LINGER_RESET = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: close(2) sends a RST


class TcpStream(ProtocolDriver, asyncio.Protocol):
    """A stream between the event loop's TCP transport below and a protocol above.

    It adds to the event loop's: small writes are not delayed (tcp(7), TCP_NODELAY), abort() sends
    a RST (close(2) alone may send a FIN), a reset by the peer is always ConnectionResetError, and
    ACKs are not delayed if `is_quick_to_ack`.

    Delayed ACKs: sshd leaves Nagle's algorithm on for sessions that only forward, so its small
    EOF packet waits for our ACK, and our ACK waits up to 40 ms for data to ride on. Setting
    TCP_QUICKACK, which the kernel clears by itself (tcp(7)), again after each read makes that
    2 300 short requests a second instead of 23.
    """

    _below: asyncio.Transport
    _socket: Any

    def __init__(self, protocol: asyncio.Protocol, *, is_quick_to_ack: bool) -> None:
        super().__init__(protocol)
        self._is_quick_to_ack = is_quick_to_ack
        self._is_lost = False

    # asyncio.Protocol, called by the event loop's transport.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._below = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._below.set_write_buffer_limits(high=base.HIGH_WATER)
        self._protocol.connection_made(self)

    @override
    def data_received(self, data: bytes) -> None:
        self._data_received(data)
        if self._is_quick_to_ack and not self._is_lost:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    @override
    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if isinstance(exc, BrokenPipeError):  # a reset, met when writing
            exc = ConnectionResetError(*exc.args)
        self._protocol.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # asyncio.Transport, called by the protocol. Once lost, asyncio ignores calls and uvloop raises.

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_lost:
            self._below.write(data)

    @override
    def write_eof(self) -> None:
        if not self._is_lost:
            self._below.write_eof()

    @override
    def close(self) -> None:
        if not self._is_lost:
            self._below.close()

    @override
    def abort(self) -> None:
        if not self._is_lost:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self._below.abort()

    @override
    def is_closing(self) -> bool:
        return self._is_lost or self._below.is_closing()

    @override
    def pause_reading(self) -> None:
        if not self._is_lost:
            self._below.pause_reading()

    @override
    def resume_reading(self) -> None:
        if not self._is_lost:
            self._below.resume_reading()

    @override
    def is_reading(self) -> bool:
        return not self._is_lost and self._below.is_reading()

    @override
    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        value = self._below.get_extra_info(name, default)
        if name in ("peername", "sockname") and value:
            return plain_name(value)
        return value


class TcpListener:
    """A bound TCP socket and the streams it has accepted."""

    def __init__(self, factory: base.StreamFactory) -> None:
        self._factory = factory
        self._streams: weakref.WeakSet[TcpStream] = weakref.WeakSet()
        self._server: asyncio.Server

    async def open(self, address: base.Address) -> None:
        """Bind and listen. Raises TransportError."""
        bound = await bound_socket(address, socket.SOCK_STREAM)
        self._address = address_of(bound)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=bound, backlog=LISTEN_BACKLOG)

    @property
    def address(self) -> base.Address:
        """The bound address."""
        return self._address

    async def close(self) -> None:
        """Stop accepting and abort the streams that are still open."""
        self._server.close()
        for stream in list(self._streams):
            stream.abort()
        await self._server.wait_closed()

    def _accept(self) -> TcpStream:
        stream = TcpStream(self._factory(), is_quick_to_ack=False)
        self._streams.add(stream)
        return stream


class TcpTransport:
    """TCP. `peer_key` is None: only SSH authenticates the server."""

    name = "tcp"

    async def connect(
        self, dialing: base.Dialing, factory: base.StreamFactory
    ) -> asyncio.Transport:
        """Return a stream to the first address that answers; see `base.Transport`."""
        loop = asyncio.get_running_loop()

        async def attempt(family: socket.AddressFamily, name: base.SocketAddress) -> socket.socket:
            outer = await dialing.sockets.outer_socket(family, socket.SOCK_STREAM)
            try:
                outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MAX_SEGMENT_BYTES)
                await loop.sock_connect(outer, name)
            except BaseException:
                outer.close()
                raise
            return outer

        outer = await dial(dialing, socket.SOCK_STREAM, attempt)
        _, stream = await loop.create_connection(
            lambda: TcpStream(factory(), is_quick_to_ack=True), sock=outer
        )
        return stream

    async def listen(self, listening: base.Listening, factory: base.StreamFactory) -> base.Listener:
        """Accept streams at `listening.address`; its identity is not used."""
        listener = TcpListener(factory)
        await listener.open(listening.address)
        return listener
