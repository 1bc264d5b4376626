"""The seam between the QUIC transport and a library that speaks QUIC v1 (RFC 9000).

Theory of operation
-------------------
An `Engine` gives connections. A `Connection` is one bidirectional stream, opened by the client,
and the DATAGRAM frames beside it (RFC 9221). Packets, timers, keys and sockets are below this
line: an engine may run on the event loop, as `aioquic_engine` does, or own its sockets and a
thread.

- *Orders* are the methods of a `Connection`. They do not block.
- *Facts* are the methods of a `Receiver`. They come on the event loop on which `connect` or
  `listen` was called, in the order in which things happened, from `attach` on until
  `on_closed` or `close`.

Invariants, held by `tests/vpn/transport/quic/test_engine.py` for every engine:

- a connection exists for its user once the handshake has proven the server's key, and, at the
  server, once the client has opened the stream. Connections that have not come so far are
  bounded (`config.MAX_HALF_OPEN`), and end after `Liveness.dead_after_s`;
- the peer may send `config.WINDOW_BYTES` beyond what was reported as consumed;
- a peer that is silent for `Liveness.dead_after_s` ends the connection as `Origin.SILENCE`;
- datagrams that wait are bounded (`config.MAX_WAITING_DATAGRAMS`), and do not starve the stream.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from vpn.transport.base import Listener, Listening, OuterSockets, SocketAddress

# Application error codes of ours (RFC 9000, section 20.2).
NO_ERROR = 0
ABORTED = 1  # the stream is reset, in both directions
REFUSED = 2  # the client does not accept the server's key


class Origin(Enum):
    """What ended a connection."""

    APPLICATION = auto()  # CONNECTION_CLOSE of type 0x1d, with a code of ours
    TRANSPORT = auto()  # CONNECTION_CLOSE of type 0x1c (RFC 9000, section 20.1)
    SILENCE = auto()  # no answer from the peer


@dataclass(frozen=True, slots=True)
class Termination:
    """How a connection ended (RFC 9000, section 10). `code` means nothing after silence."""

    origin: Origin
    code: int = NO_ERROR
    reason: str = ""


class ConnectionClosedError(Exception):
    """The connection ended before its stream was attached."""

    def __init__(self, termination: Termination) -> None:
        super().__init__(termination.reason)
        self.termination = termination


@dataclass(frozen=True, slots=True)
class Path:
    """The way between two ends as it is now; a peer may migrate (RFC 9000, section 9).

    Addresses are `(host, port)`. `rtt_s` is the smoothed round-trip time (RFC 9002, section 5.3)
    and 0 before the first sample; `lost_packets` counts those declared lost (section 6).
    """

    local: tuple[str, int]
    peer: tuple[str, int]
    rtt_s: float
    lost_packets: int


@dataclass(frozen=True, slots=True)
class Call:
    """What an engine needs to connect.

    An engine takes its socket from `sockets`, where it is already marked (socket(7), SO_MARK).
    """

    family: socket.AddressFamily
    name: SocketAddress
    sockets: OuterSockets
    has_datagrams: bool = True


class Receiver(Protocol):
    """The user of a connection; `stream.QuicStream` is one."""

    def on_bytes(self, data: bytes) -> None:
        """Bytes arrived, in order."""
        ...

    def on_fin(self) -> None:
        """The peer has ended its direction."""
        ...

    def on_progress(self) -> None:
        """Some of what was written has been sent or acknowledged."""
        ...

    def on_datagram(self, data: bytes) -> None:
        """A datagram arrived."""
        ...

    def on_closed(self, termination: Termination) -> None:
        """The connection has ended, not by our `close`; this is the last fact."""
        ...


class ConnectionFacts(Protocol):
    """The state of a connection that may be read at any time."""

    @property
    def peer_key(self) -> bytes | None:
        """The raw Ed25519 key which the server has proven to hold; None at the server.

        Raises AuthenticationError if the server has proven another kind of key.
        """
        ...

    @property
    def unsent_bytes(self) -> int:
        """How many bytes were written and never sent."""
        ...

    @property
    def is_sending_finished(self) -> bool:
        """Whether the peer has acknowledged all bytes and the end of our direction."""
        ...

    @property
    def max_datagram_bytes(self) -> int:
        """The largest datagram that can be sent; 0 if one of the two ends takes none."""
        ...

    @property
    def dropped_datagrams(self) -> int:
        """How many datagrams were dropped because newer ones came while they waited."""
        ...


class Connection(ConnectionFacts, Protocol):
    """One connection with its stream and its datagrams."""

    @property
    def path(self) -> Path:
        """The addresses in use, and what is known of the way between them."""
        ...

    def attach(self, receiver: Receiver) -> None:
        """Use the stream; a client's is opened by this. Raises ConnectionClosedError."""
        ...

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool = False) -> None:
        """Send bytes after those before, and with `is_end` the end of our direction.

        A mutable buffer is copied before this returns.
        """
        ...

    def consume(self, count: int) -> None:
        """Let the peer send `count` bytes more: so many were read."""
        ...

    def send_datagram(self, data: bytes) -> None:
        """Send a datagram of at most `max_datagram_bytes`."""
        ...

    def close(self, code: int = NO_ERROR, reason: str = "") -> None:
        """End the connection at once with an application error code; harmless when ended."""
        ...


class Engine(Protocol):
    """A library that speaks QUIC."""

    name: str

    async def connect(self, call: Call) -> Connection:
        """Return a client's connection after its handshake.

        Raises ConnectionClosedError if the server refused or a handshake failed, else OSError.
        """
        ...

    async def listen(self, listening: Listening, accept: Callable[[Connection], None]) -> Listener:
        """Accept connections; `accept` attaches a receiver to each. Raises TransportError.

        Closing the listener closes with ABORTED what it has accepted.
        """
        ...
