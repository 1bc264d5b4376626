"""UDP packets: checks of a captured one, and the writing of one for the capture TUN. Pure.

A packet for the capture TUN is written whole, whatever its size: the kernel accepts from a device
packets larger than its MTU, so none is fragmented. The checksum is left to the kernel like that of
any local packet (virtio 1.2 §5.1.6.2, NEEDS_CSUM): no payload is summed.
"""

from __future__ import annotations

import struct
from typing import Final

from shim.gate.wire.packet import UDP, Packet, checksum

HEADER_BYTES: Final = 8

_NEEDS_CSUM: Final = 1
_HOP_LIMIT: Final = 64
_MAX_USUAL_BYTES: Final = 1500


def has_good_checksum(packet: Packet) -> bool:
    """Whether the checksum is right, or absent where it may be (RFC 768, RFC 8200 §8.1)."""
    if packet.offload[0] & _NEEDS_CSUM:
        return True
    length = int.from_bytes(packet.raw[packet.transport + 4 : packet.transport + 6])
    datagram = packet.raw[packet.transport : packet.transport + length]
    if datagram[6:8] == b"\0\0":
        return len(packet.source) == 4
    pseudo = packet.source + packet.destination + struct.pack("!II", length, UDP)
    return checksum(pseudo + datagram) == 0


def may_fragment(packet: Packet) -> bool:
    """Whether routers may fragment the packet (RFC 791, DF).

    On a packet larger than an Ethernet frame the flag means nothing: the sender's kernel sets it on
    whatever fits the device, and the capture TUN takes 64 KiB. On another device that kernel would
    have sent fragments, without the flag.
    """
    if len(packet.source) == 16:
        return False
    return len(packet.raw) > _MAX_USUAL_BYTES or not packet.raw[6] & 0x40


def framed(
    source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes, ident: int
) -> bytes:
    """Return a UDP packet behind its virtio header. `ports` are the source's and destination's.

    `ident` (16 bits) is used over IPv4, where a router may take the packet apart (RFC 6864).
    """
    length = HEADER_BYTES + len(payload)
    pseudo = source + destination + struct.pack("!II", length, UDP)
    # The kernel adds the sum of the rest: what it finds in place is a sum, not its complement.
    head = struct.pack("!HHHH", *ports, length, ~checksum(pseudo) & 0xFFFF)
    if len(source) == 16:
        ip = struct.pack("!IHBB", 6 << 28, length, UDP, _HOP_LIMIT) + source + destination
    else:
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + length, ident, 0, _HOP_LIMIT, UDP, 0),
            *(source, destination),
        )
        ip = ip[:10] + checksum(ip).to_bytes(2) + ip[12:]
    offload = struct.pack("=BBHHHH", _NEEDS_CSUM, 0, 0, 0, len(ip), 6)
    return offload + ip + head + payload
