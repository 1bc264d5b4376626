"""Reads the headers of a captured packet, and writes the few packets the gate answers itself.

Theory of operation
-------------------
Two levels. `read()` turns hostile bytes into one legal value, or says in one word why it cannot;
past it nobody indexes raw bytes. It looks at the IP header (RFC 791, RFC 8200) with a bounded walk
of extension headers, and at the first octets of TCP, UDP and ICMP; never at a payload.
The writers make whole packets with checksums filled in. They serve errors and DNS answers only:
packets of flows are passed on verbatim by the loop in `loop.py`.

Left out, on purpose: fragments (refused here, reassembled nowhere), options of any kind, and all
of TCP beyond the first SYN, which is the kernel's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shim.gate.tun import VNET_HEADER_BYTES
from shim.protocol.gate import Reason

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

_MORE_FRAGMENTS_OR_OFFSET: Final = 0x3FFF
_EXTENSIONS: Final = frozenset({0, 43, 60})
"""Hop-by-hop options, routing, destination options: those that only have to be stepped over."""
_FRAGMENT_HEADER: Final = 44
_MAX_EXTENSIONS: Final = 8
_HOP_LIMIT: Final = 64

_ICMP_QUOTE_BYTES: Final = 548
"""RFC 1812 §4.3.2.3: as much of the packet as fits into 576 octets."""
_ICMPV6_QUOTE_BYTES: Final = 1232
"""RFC 4443 §3.1: as much of the packet as fits into the minimum IPv6 MTU of 1280 octets."""

FlowKey = bytes
"""Source and destination address and port in network order: 12 or 36 bytes."""


class Unreachable(IntEnum):
    """Which destination unreachable message (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3.1)."""

    NET = 0
    HOST = 1
    PROTOCOL = 2
    PORT = 3
    ADMINISTRATIVELY_PROHIBITED = 13


_ICMPV6_CODES: Final = {
    Unreachable.NET: 0,
    Unreachable.HOST: 3,
    Unreachable.PORT: 4,
    Unreachable.ADMINISTRATIVELY_PROHIBITED: 1,
}

UNREACHABLE_FOR: Final = {
    Reason.HOST_UNREACHABLE: Unreachable.HOST,
    Reason.NET_UNREACHABLE: Unreachable.NET,
    Reason.DENIED: Unreachable.ADMINISTRATIVELY_PROHIBITED,
}


@dataclass(frozen=True, slots=True)
class Packet:
    """A well-formed packet. `source` and `destination` are 4 or 16 bytes, ports 0 without ports.

    `transport` is the offset of the transport header, `flags` the TCP flags, `offload` the
    virtio header that came before it: while a checksum is still to be filled in, they only make
    sense together.
    """

    source: bytes
    destination: bytes
    protocol: int
    transport: int
    source_port: int
    destination_port: int
    flags: int
    raw: bytes
    offload: bytes

    @property
    def key(self) -> FlowKey:
        """The flow that the packet belongs to."""
        return flow_key(self.source, self.destination, self.source_port, self.destination_port)

    @property
    def is_to_one_host(self) -> bool:
        """False for multicast and broadcast, which no error may answer (RFC 1122 §3.2.2)."""
        if len(self.destination) == 16:
            return self.destination[0] != 0xFF
        return self.destination[0] < 224

    @property
    def datagram(self) -> bytes:
        """The payload of a UDP packet."""
        length = int.from_bytes(self.raw[self.transport + 4 : self.transport + 6])
        return self.raw[self.transport + 8 : self.transport + length]


def flow_key(source: bytes, destination: bytes, source_port: int, destination_port: int) -> FlowKey:
    """Return the key of the flow between two addresses of the same family."""
    return source + destination + struct.pack("!HH", source_port, destination_port)


def destination_of(key: FlowKey) -> bytes | None:
    """Return the destination address of a flow, None for what is not a key."""
    if len(key) not in (12, 36):
        return None
    size = (len(key) - 4) // 2
    return key[size : 2 * size]


def read(framed: bytes) -> Packet | str:
    """Return the packet behind a virtio header, or the reason why it is none, in one word."""
    offload, raw = framed[:VNET_HEADER_BYTES], framed[VNET_HEADER_BYTES:]
    if not raw:
        return "short"
    version = raw[0] >> 4
    if version == 4:
        return _read_v4(raw, offload)
    if version == 6:
        return _read_v6(raw, offload)
    return "version"


def _read_v4(raw: bytes, offload: bytes) -> Packet | str:
    if len(raw) < 20:
        return "short"
    header = (raw[0] & 0x0F) * 4
    total = int.from_bytes(raw[2:4])
    if header < 20 or total < header or total > len(raw):
        return "length"
    if int.from_bytes(raw[6:8]) & _MORE_FRAGMENTS_OR_OFFSET:
        return "fragment"
    source, destination = raw[12:16], raw[16:20]
    if source == destination:
        return "land"
    return _read_transport(raw[:total], offload, source, destination, raw[9], header)


def _read_v6(raw: bytes, offload: bytes) -> Packet | str:
    if len(raw) < 40:
        return "short"
    total = 40 + int.from_bytes(raw[4:6])
    if total > len(raw):
        return "length"
    source, destination = raw[8:24], raw[24:40]
    if source == destination:
        return "land"
    protocol, offset = raw[6], 40
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            break
        if offset + 8 > total:
            return "short"
        protocol, offset = raw[offset], offset + 8 + raw[offset + 1] * 8
    else:
        return "extensions"
    if protocol == _FRAGMENT_HEADER:
        return "fragment"
    if offset > total:
        return "short"
    return _read_transport(raw[:total], offload, source, destination, protocol, offset)


def _read_transport(
    raw: bytes, offload: bytes, source: bytes, destination: bytes, protocol: int, offset: int
) -> Packet | str:
    rest = len(raw) - offset
    source_port = destination_port = flags = 0
    if protocol in (TCP, UDP):
        if rest < (20 if protocol == TCP else 8):
            return "short"
        source_port, destination_port = struct.unpack_from("!HH", raw, offset)
        if not source_port or not destination_port:
            return "port"
    if protocol == TCP:
        if not 20 <= (raw[offset + 12] >> 4) * 4 <= rest:
            return "length"
        flags = raw[offset + 13]
    elif protocol == UDP and not 8 <= int.from_bytes(raw[offset + 4 : offset + 6]) <= rest:
        return "length"
    elif protocol in (ICMP, ICMPV6) and rest < 8:
        return "short"
    return Packet(
        source,
        destination,
        protocol,
        offset,
        source_port,
        destination_port,
        flags,
        raw,
        offload,
    )


def reset(syn: Packet) -> bytes:
    """Return the RST that refuses a SYN (RFC 9293 §3.5.2, group 1)."""
    sequence = int.from_bytes(syn.raw[syn.transport + 4 : syn.transport + 8])
    data_offset = (syn.raw[syn.transport + 12] >> 4) * 4
    length = len(syn.raw) - syn.transport - data_offset + 1
    segment = struct.pack(
        "!HHIIBBHHH",
        syn.destination_port,
        syn.source_port,
        0,
        (sequence + length) & 0xFFFFFFFF,
        5 << 4,
        RST | ACK,
        0,
        0,
        0,
    )
    return _wrap(syn.destination, syn.source, TCP, segment, checksum_at=16)


def unreachable(packet: Packet, code: Unreachable, gateway4: bytes, gateway6: bytes) -> bytes:
    """Return the ICMP error that answers `packet`, sent by the gateway of its family."""
    if len(packet.source) == 4:
        body = struct.pack("!BBHI", 3, code, 0, 0) + packet.raw[:_ICMP_QUOTE_BYTES]
        return _wrap(gateway4, packet.source, ICMP, body, checksum_at=2)
    if code == Unreachable.PROTOCOL:
        # RFC 4443 §3.4: an unrecognized next header is a parameter problem; 6 is its offset.
        head = struct.pack("!BBHI", 4, 1, 0, 6)
    else:
        head = struct.pack("!BBHI", 1, _ICMPV6_CODES[code], 0, 0)
    body = head + packet.raw[:_ICMPV6_QUOTE_BYTES]
    return _wrap(gateway6, packet.source, ICMPV6, body, checksum_at=2)


def datagram(source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a UDP packet (RFC 768). `ports` are the source's and the destination's."""
    head = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    return _wrap(source, destination, UDP, head + payload, checksum_at=6)


def _wrap(
    source: bytes, destination: bytes, protocol: int, body: bytes, *, checksum_at: int
) -> bytes:
    """Return a packet with the checksum of its body filled in at offset `checksum_at`."""
    pseudo = source + destination + struct.pack("!II", len(body), protocol)
    covered = body if protocol == ICMP else pseudo + body
    # RFC 768: a UDP checksum that comes out as zero is sent as all ones.
    value = checksum(covered) or (0xFFFF if protocol == UDP else 0)
    body = body[:checksum_at] + value.to_bytes(2) + body[checksum_at + 2 :]
    if len(source) == 16:
        return (
            struct.pack("!IHBB", 6 << 28, len(body), protocol, _HOP_LIMIT)
            + source
            + destination
            + body
        )
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, _HOP_LIMIT, protocol, 0, source, destination
    )
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + body


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071).

    The ones' complement sum of 16-bit words is the number modulo 2^16 - 1, so one division of a
    large integer replaces a loop.
    """
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data)
    remainder = total % 0xFFFF
    if total and not remainder:
        remainder = 0xFFFF
    return ~remainder & 0xFFFF
