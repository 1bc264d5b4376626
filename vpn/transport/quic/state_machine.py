"""A QUIC connection that does no I/O, as `udp_connection` drives one and `aioquic_engine` has one.

Five verbs: take a packet, report what happened, give the packets to send, tell the next timer,
handle it. Time is an argument, in the seconds of time.monotonic().
"""

from __future__ import annotations

from typing import Any, Protocol

from vpn.transport.base import SocketAddress
from vpn.transport.quic.engine import ConnectionFacts, Termination
from vpn.transport.quic.udp_port import Datagram


class Events(Protocol):
    """What a state machine reports; `UdpConnection` is the one that takes it."""

    def on_handshake(self) -> None:
        """The TLS handshake is complete."""
        ...

    def on_data(self, data: bytes) -> None:
        """Bytes of the stream arrived in order, maybe none."""
        ...

    def on_fin(self) -> None:
        """The peer has ended its direction of the stream."""
        ...

    def on_reset(self) -> None:
        """The peer has reset the stream, or asked us to stop sending."""
        ...

    def on_datagram(self, data: bytes) -> None:
        """A DATAGRAM frame arrived."""
        ...

    def on_ping_acknowledged(self) -> None:
        """The peer has acknowledged a PING frame."""
        ...

    def on_connection_id(self, connection_id: bytes, *, is_valid: bool) -> None:
        """The peer may (or may no longer) send to this connection ID."""
        ...

    def on_closing_over(self) -> None:
        """The closing period is over."""
        ...


class StateMachine(ConnectionFacts, Protocol):
    """A QUIC connection that does no I/O."""

    lost_packets: int

    @property
    def termination(self) -> Termination | None:
        """How the connection ended; known before the closing period begins."""
        ...

    @property
    def peer_address(self) -> SocketAddress:
        """Where packets are sent to."""
        ...

    @property
    def rtt_s(self) -> float:
        """The smoothed round-trip time, 0 before the first sample."""
        ...

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take a packet."""
        ...

    def report(self, events: Events) -> None:
        """Report what happened since the last call."""
        ...

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the packets to send now."""
        ...

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        ...

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        ...

    def open_stream(self) -> None:
        """Open the stream, unless the peer has."""
        ...

    def find_stream(self) -> bool:
        """Return whether the peer has opened the stream."""
        ...

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        """Queue bytes of the stream, copied."""
        ...

    def consume(self, count: int) -> bool:
        """Give credit, and return whether to announce it now."""
        ...

    def queue_datagram(self, data: bytes) -> None:
        """Queue a datagram."""
        ...

    def ping(self) -> None:
        """Queue a PING frame."""
        ...

    def request_key_update(self) -> None:
        """Encrypt with new keys (RFC 9001, section 6)."""
        ...

    def terminate(self, code: int, reason: str) -> None:
        """Queue a CONNECTION_CLOSE of type 0x1d."""
        ...
