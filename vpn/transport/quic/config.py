"""Limits and intervals of the QUIC transport, the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass

ALPN = "overlay-vpn/1"

MAX_DATAGRAM_BYTES = 1232
"""The IPv6 minimum MTU, 1280, less the IPv6 and UDP headers: fits every path (RFC 9000, 14)."""

WINDOW_BYTES = 8 << 20
"""Credit a sender has beyond what our protocol has read (RFC 9000, section 4.1).

New credit is announced when a quarter of it is used up, so 6 MiB are usable in one round trip:
500 Mbit/s at 100 ms, 167 Mbit/s at 300 ms. A paused reader costs at most this much memory here.
"""

CREDIT_STEP_BYTES = WINDOW_BYTES // 4

CONGESTION_CONTROL = "cubic"
"""aioquic's CUBIC (RFC 9438). Measured beside its "reno": 76 and 12 Mbit/s at 100 ms and 0.02 %
loss; both 95 % of a bottleneck of 20 or 100 Mbit/s without other loss; 5 to 10 % more CPU on
loopback."""

SOCKET_BUFFER_BYTES = 4 << 20
"""Asked of the kernel, which may give less (socket(7), rmem_max): room for one burst."""

MAX_FRAME_BYTES = 65535
"""The largest DATAGRAM frame we accept: any that fits in a packet (RFC 9221, section 3)."""

MAX_WAITING_DATAGRAMS = 256
"""Datagrams that wait to be sent, at most 300 kB: as much delay as the stream's high-water mark.
Beyond it the oldest are dropped: they are worth least when they arrive, and a sender that watches
for loss learns of the overload one queue's length earlier than if the newest were dropped."""

MAX_HALF_OPEN = 256
"""Connections of one listener without a stream. Each costs the server a signature and about
50 kB; a flood beyond it is dropped until they complete or `dead_after_s` has passed."""

KEY_UPDATE_PACKETS = 1 << 22
"""Half of what AES-GCM may encrypt under one key (RFC 9001, section 6.6: 2^23 packets)."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """The interval of PING frames, and the silence after which a peer counts as dead."""

    ping_interval_s: float = 5.0
    dead_after_s: float = 15.0

    @property
    def idle_timeout_s(self) -> float:
        """QUIC's own idle timeout (RFC 9000, section 10.1): never before ours."""
        return self.dead_after_s + self.ping_interval_s
