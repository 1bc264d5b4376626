"""Streams over TCP: to any sshd, or to our own server where UDP does not pass."""

from __future__ import annotations

import asyncio
import socket
import struct
import weakref
from typing import Any, cast

from vpn.transport.base import (
    HIGH_WATER,
    Address,
    Dialing,
    Listener,
    Listening,
    SocketAddress,
    StreamFactory,
)
from vpn.transport.bind import LISTEN_BACKLOG, address_of, bound_socket, plain_name
from vpn.transport.dial import dial

MAX_SEGMENT_BYTES = 1220
"""The IPv6 minimum MTU, 1280, less the IPv6 and TCP headers: fits every path (RFC 8200, 5).

tcp(7), TCP_MAXSEG: asked of the peer as well. Without it a path that drops larger packets in
silence stops the session for good, as the kernel does not probe unless it is told to
(ip-sysctl.txt, tcp_mtu_probing).
"""

LINGER_RESET = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: close(2) sends a RST


class TcpStream(asyncio.Transport, asyncio.Protocol):
    """A stream between the event loop's TCP transport below and a protocol above.

    It adds three things to what the event loop does: an abort is a RST (close(2) alone may
    send a FIN), every way a peer resets is one error, and delayed ACKs are kept off where asked.

    Delayed ACKs: sshd leaves Nagle's algorithm on for sessions that only forward, so its small
    EOF packet waits for our ACK, and our ACK waits up to 40 ms for data to ride on. Re-arming
    TCP_QUICKACK, which the kernel clears by itself (tcp(7)), after each read makes that
    2 300 short requests a second instead of 23.
    """

    _below: asyncio.Transport
    _socket: Any

    def __init__(self, protocol: asyncio.Protocol, *, is_quick_to_ack: bool) -> None:
        super().__init__()
        self._above = protocol
        self._data_received = protocol.data_received
        self._is_quick_to_ack = is_quick_to_ack
        self._is_lost = False

    # asyncio.Protocol, called from below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the socket is connected."""
        # uvloop's transports are no subclasses of asyncio's.
        self._below = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._below.set_write_buffer_limits(high=HIGH_WATER)
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Pass bytes up, then acknowledge them if they were not answered."""
        self._data_received(data)
        if self._is_quick_to_ack and not self._is_lost:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def eof_received(self) -> bool | None:
        """Pass the peer's end up; a false answer closes the stream."""
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end up. A reset is met as ECONNRESET when reading, EPIPE when writing."""
        self._is_lost = True
        if isinstance(exc, BrokenPipeError):
            exc = ConnectionResetError(*exc.args)
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass up that the socket is full."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """Pass up that the socket takes bytes again."""
        self._above.resume_writing()

    # asyncio.Transport, called from above. Once lost, asyncio ignores calls and uvloop raises.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if not self._is_lost:
            self._below.write(data)

    def write_eof(self) -> None:
        """Send a FIN after the bytes written."""
        if not self._is_lost:
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        """Return True: TCP closes each direction by itself."""
        return True

    def close(self) -> None:
        """Send what was written, then close."""
        if not self._is_lost:
            self._below.close()

    def abort(self) -> None:
        """Send a RST and drop what was written."""
        if not self._is_lost:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self._below.abort()

    def is_closing(self) -> bool:
        """Return whether the stream is closing or closed."""
        return self._is_lost or self._below.is_closing()

    def pause_reading(self) -> None:
        """Stop reading; the kernel's window then stops the peer."""
        if not self._is_lost:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._is_lost:
            self._below.resume_reading()

    def is_reading(self) -> bool:
        """Return whether bytes are being delivered."""
        return not self._is_lost and self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the kernel."""
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and high water marks in bytes."""
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Refuse: the marks are the same for every stream."""
        raise NotImplementedError("the write buffer limits of a stream are fixed")

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Drive another protocol from now on."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a stream drives an asyncio.Protocol")
        self._above = protocol
        self._data_received = protocol.data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol being driven."""
        return self._above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the event loop knows, names in their plain form."""
        value = self._below.get_extra_info(name, default)
        if name in ("peername", "sockname") and value:
            return plain_name(value)
        return value


class TcpListener:
    """A bound TCP socket and the streams it has accepted."""

    def __init__(self, factory: StreamFactory) -> None:
        self._factory = factory
        self._streams: weakref.WeakSet[TcpStream] = weakref.WeakSet()
        self._server: asyncio.Server

    async def open(self, address: Address) -> None:
        """Bind and listen. Raises TransportError."""
        bound = await bound_socket(address, socket.SOCK_STREAM)
        self._address = address_of(bound)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=bound, backlog=LISTEN_BACKLOG)

    @property
    def address(self) -> Address:
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
    """TCP. It proves no identity of its own: `peer_key` is None, SSH alone checks the host key."""

    name = "tcp"

    async def connect(self, dialing: Dialing, factory: StreamFactory) -> asyncio.Transport:
        """Return a stream to the first address that answers; see `base.Transport`."""
        loop = asyncio.get_running_loop()

        async def attempt(family: socket.AddressFamily, name: SocketAddress) -> socket.socket:
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

    async def listen(self, listening: Listening, factory: StreamFactory) -> Listener:
        """Accept streams at `listening.address`; its identity is not used."""
        listener = TcpListener(factory)
        await listener.open(listening.address)
        return listener
