"""The interface of a transport: one duplex stream per connect().

Theory of operation
-------------------
SSH runs over a stream and opens no socket; a transport makes the stream and knows nothing of SSH.
A *stream* is an `asyncio.Transport` that drives an `asyncio.Protocol`, so asyncssh runs on it
unchanged and nothing is copied on the way. A carrier that reports events instead (a QUIC engine, a
pair in memory) builds on `vpn.transport.stream`.

Invariants, held by `tests/vpn/transport/test_conformance.py` for every transport:

- order and content of bytes are kept; any chunking may happen;
- `write_eof()` becomes `eof_received()` at the peer, and the other direction stays open;
- `abort()` becomes `connection_lost(ConnectionResetError)` at the peer, never a clean end;
- back-pressure: `pause_writing()` is called once more than `HIGH_WATER` bytes wait that could not
  be sent yet. What is sent and not acknowledged is bounded by the peer's receive window (the
  kernel's for TCP, `quic.config.WINDOW_BYTES` for QUIC), so a peer that calls `pause_reading()`
  stops the sender with bounded memory. The mark is low because everything behind it is delay
  for what is written next: 256 KiB are 0.1 s at 20 Mbit/s;
- a peer that falls silent is noticed (`connection_lost(TimeoutError)`) by transports that check
  liveness themselves; elsewhere SSH keepalives notice it;
- datagrams, if there are any, go between the same two ends under the same keys as the stream, so
  its authentication covers them. They may be lost, duplicated and reordered, also with respect to
  the stream; they never block it. None is reported once the stream is closing.

Extra information of a stream (`get_extra_info`):

- `"peername"`, `"sockname"`: `(host, port)` of the peer and of our end;
- `"peer_key"`: the peer's raw Ed25519 public key (32 bytes) if the transport itself proved it,
  else None. The client compares it with the SSH host key, which is the same key;
- `"datagrams"`: the `Datagrams` of the stream's connection if both ends can carry them, else None.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vpn.endpoint import join_host_port
from vpn.errors import AuthenticationError

HIGH_WATER = 256 << 10

StreamFactory = Callable[[], asyncio.Protocol]
SocketAddress = tuple[Any, ...]
"""An address of the socket module; its shape depends on the family."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. `host` is a name or an IP literal without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


Resolve = Callable[
    [Address, socket.SocketKind], Awaitable[Sequence[tuple[socket.AddressFamily, SocketAddress]]]
]
"""Returns the socket addresses of a server in the order in which to try them. Raises OSError."""


class OuterSockets(Protocol):
    """Opens the sockets that carry the tunnel itself.

    While the shim runs they are marked (socket(7), SO_MARK), which exempts them from capture;
    otherwise they are plain sockets.
    """

    async def outer_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        """Return a new non-blocking socket, neither bound nor connected. Raises OSError."""
        ...


def _refuse_peer(_: bytes) -> None:
    raise AuthenticationError("it is not known which key the server has; refused")


@dataclass(frozen=True, slots=True)
class Dialing:
    """The arguments of `Transport.connect`.

    `check_peer` is called with the raw Ed25519 key that the peer has proven to hold, before any
    byte of the stream is sent; it raises to refuse the peer. The SSH session sets it; without it
    every key is refused. `resolve` replaces this module's function of that name. `datagrams`:
    False for none, True if they are required, None for datagrams if both ends can carry them.
    """

    address: Address
    sockets: OuterSockets
    timeout_s: float = 15.0
    resolve: Resolve | None = None
    datagrams: bool | None = None
    check_peer: Callable[[bytes], None] = _refuse_peer


@dataclass(frozen=True, slots=True)
class Listening:
    """The arguments of `Transport.listen`. `identity` is the server's raw Ed25519 seed."""

    address: Address
    identity: bytes


class Datagrams(Protocol):
    """Unreliable datagrams beside a stream, on the same connection."""

    on_datagram: Callable[[bytes], object]
    """Called with each datagram that arrives. Datagrams that arrive before it is set are lost."""

    @property
    def max_bytes(self) -> int:
        """The largest datagram that can be sent now; 0 once the stream is closing."""
        ...

    def send(self, data: bytes) -> bool:
        """Queue a datagram; return False if it is too large or the stream is closing.

        The queue is bounded: when it is full, the oldest datagram is dropped.
        """
        ...


class Listener(Protocol):
    """A bound listener; each stream that it accepts drives a protocol of its own."""

    @property
    def address(self) -> Address:
        """The bound address, with the port that the kernel chose if 0 was asked for."""
        ...

    async def close(self) -> None:
        """Stop accepting and abort the streams that are still open; harmless when closed."""
        ...


class Transport(Protocol):
    """A way to a server. One instance may connect and listen any number of times."""

    name: str

    async def connect(self, dialing: Dialing, factory: StreamFactory) -> asyncio.Transport:
        """Return one duplex stream that drives the protocol made by `factory`.

        Raises TransportError (unreachable, no answer) or AuthenticationError (`check_peer`).
        """
        ...

    async def listen(self, listening: Listening, factory: StreamFactory) -> Listener:
        """Accept streams; `factory` is called once per stream. Raises TransportError."""
        ...


class PlainSockets:
    """Sockets without a mark."""

    async def outer_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        """Return a new non-blocking socket. Raises OSError."""
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def resolve(
    address: Address, kind: socket.SocketKind
) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Return the socket addresses of a server in the order of getaddrinfo(3). Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(address.host, address.port, type=kind)
    except UnicodeError as error:  # of the IDNA codec: RFC 1035, section 2.3.4
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return [(family, sockaddr) for family, _, _, _, sockaddr in infos]
