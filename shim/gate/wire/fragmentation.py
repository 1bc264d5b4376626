"""IPv6 fragmentation towards destinations behind a link with a small MTU (RFC 8201). Pure.

Theory of operation
-------------------
The capture TUN takes packets of 64 KiB, and the host receives them whole. Forwarded to a container,
a packet larger than its link is lost: over IPv6 only the source fragments (RFC 8200 §5), so the
kernel sends "packet too big" to the far end, which for it is behind the capture TUN. From then on
packets to that address are cut to the minimum MTU, which every link carries; the first one is lost,
as on any path (RFC 8201 §4). IPv4 packets are fragmented by the kernel that forwards them, and TCP
segments by its offload.

A forged message has packets cut that would have arrived whole, and does no more.

Bounds: `MAX_PATHS` addresses, the oldest is forgotten; each for `KNOWN_S`.
"""

from __future__ import annotations

import struct
from typing import Final

from shim.gate.wire.packet import ICMPV6, Packet, checksum
from shim.gate.wire.tun import NO_OFFLOAD, VNET_HEADER_BYTES

MIN_MTU: Final = 1280
"""RFC 8200 §5."""
KNOWN_S: Final = 600.0
"""RFC 8201 §4: the path may have a larger MTU by then."""
MAX_PATHS: Final = 1024

_TOO_BIG: Final = 2
"""RFC 4443 §3.2."""
_IP_BYTES: Final = 40
_FRAGMENT: Final = 44
_PIECE_BYTES: Final = MIN_MTU - _IP_BYTES - 8
_NEEDS_CSUM: Final = 1
_DESTINATION: Final = slice(24, 40)


class PathMtuCache:
    """The destinations that large packets do not reach; cuts what is sent to them."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}
        self._ident = 0

    def on_icmp(self, message: Packet, now: float) -> bool:
        """Remember the destination of a "packet too big". Returns whether the message is one."""
        body = message.raw[message.transport :]
        about = body[8:]
        if message.protocol != ICMPV6 or body[0] != _TOO_BIG or len(about) < _IP_BYTES:
            return False
        destination = about[_DESTINATION]
        self._until.pop(destination, None)
        self._until[destination] = now + KNOWN_S
        if len(self._until) > MAX_PATHS:
            del self._until[next(iter(self._until))]
        return True

    def expire(self, now: float) -> None:
        """Forget what was learned too long ago."""
        self._until = {one: until for one, until in self._until.items() if until > now}

    def cut(self, framed: bytes) -> list[bytes]:
        """Return the packet, or its fragments, each behind a virtio header."""
        if not self._until or len(framed) <= VNET_HEADER_BYTES + MIN_MTU:
            return [framed]
        raw = memoryview(framed)[VNET_HEADER_BYTES:]
        if raw[0] >> 4 != 6 or bytes(raw[_DESTINATION]) not in self._until:
            return [framed]
        self._ident = (self._ident + 1) & 0xFFFFFFFF
        return _cut(framed, self._ident)


def _cut(framed: bytes, ident: int) -> list[bytes]:
    raw = framed[VNET_HEADER_BYTES:]
    body = _summed(framed[:VNET_HEADER_BYTES], raw)
    pieces = []
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        has_more = start + len(piece) < len(body)
        head = struct.pack("!BBHI", raw[6], 0, start | has_more, ident)  # RFC 8200 §4.5
        length = len(head) + len(piece)
        ip = raw[:4] + struct.pack("!HB", length, _FRAGMENT) + raw[7:_IP_BYTES]
        pieces.append(NO_OFFLOAD + ip + head + piece)
    return pieces


def _summed(offload: bytes, raw: bytes) -> bytes:
    """Return what is behind the IP header, with the checksum that was left to the kernel."""
    flags, start, offset = struct.unpack("=B5xHH", offload)
    body = raw[_IP_BYTES:]
    if not flags & _NEEDS_CSUM:
        return body
    at = start - _IP_BYTES + offset
    total = checksum(raw[start:]) or 0xFFFF  # 0 says that there is none (RFC 8200 §8.1)
    return body[:at] + total.to_bytes(2) + body[at + 2 :]
