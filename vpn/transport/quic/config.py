"""The numbers of the QUIC transport, each with its reason."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vpn.transport.certificate import self_signed

ALPN = "overlay-vpn/1"

MAX_DATAGRAM_BYTES = 1232
"""The IPv6 minimum MTU, 1280, less the IPv6 and UDP headers: fits every path (RFC 9000, 14)."""

WINDOW_BYTES = 8 << 20
"""Credit a sender has beyond what our protocol has read.

New credit is announced when a quarter of it is used up, so 6 MiB are usable in one round trip:
500 Mbit/s at 100 ms, 167 Mbit/s at 300 ms. A paused reader costs at most this much memory here.
"""

CREDIT_STEP_BYTES = WINDOW_BYTES // 4

CONGESTION_CONTROL = "cubic"
"""RFC 9438. Measured against aioquic's "reno" over a relay: 100 ms and 0.02 % loss, 76 against
12 Mbit/s; 20 Mbit/s and 100 Mbit/s bottlenecks without other loss, both 95 %; loopback, 5 to 10 %
more CPU."""

SOCKET_BUFFER_BYTES = 4 << 20
"""Asked of the kernel, which may give less (socket(7), rmem_max): room for one burst."""

MAX_FRAME_BYTES = 65535
"""The largest DATAGRAM frame we accept: any that fits in a packet (RFC 9221, section 3)."""

MAX_WAITING_DATAGRAMS = 256
"""Datagrams that wait to be sent, at most 300 kB: as much delay as the stream's high-water mark.
Beyond it the oldest are dropped: what comes late is worth least, and whoever sends too much is
told a queue's length earlier than by dropping the newest."""

MAX_HALF_OPEN = 256
"""Connections of one listener without a stream. Each costs the server a signature and about
50 kB; a flood beyond it is dropped until they complete or `dead_after_s` has passed."""

KEY_UPDATE_PACKETS = 1 << 22
"""Half of what AES-GCM may encrypt under one key (RFC 9001, section 6.6: 2^23 packets)."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a silent peer is asked for a sign of life, and when it counts as dead."""

    ping_interval_s: float = 5.0
    dead_after_s: float = 15.0

    @property
    def idle_timeout_s(self) -> float:
        """QUIC's own idle timeout (RFC 9000, section 10.1): never before ours."""
        return self.dead_after_s + self.ping_interval_s


def client_configuration(liveness: Liveness, *, datagrams: bool = True) -> QuicConfiguration:
    """Return the client's side. The certificate is checked by its key, not by a chain."""
    configuration = _configuration(liveness, is_client=True)
    if not datagrams:
        configuration.max_datagram_frame_size = None
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


def server_configuration(identity: bytes, liveness: Liveness) -> QuicConfiguration:
    """Return the server's side for a raw Ed25519 seed."""
    configuration = _configuration(liveness, is_client=False)
    configuration.private_key = Ed25519PrivateKey.from_private_bytes(identity)
    configuration.certificate = self_signed(configuration.private_key)
    return configuration


def _configuration(liveness: Liveness, *, is_client: bool) -> QuicConfiguration:
    # No session ticket is ever kept or issued, so there is no 0-RTT: it could be replayed.
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        congestion_control_algorithm=CONGESTION_CONTROL,
        idle_timeout=liveness.idle_timeout_s,
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
        max_datagram_frame_size=MAX_FRAME_BYTES,
        max_datagram_size=MAX_DATAGRAM_BYTES,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )
