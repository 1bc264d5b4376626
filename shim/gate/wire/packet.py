"""The headers of captured packets, and the few packets that the gate answers itself. Pure.

Theory of operation
-------------------
Two levels. `read()` turns hostile bytes into one legal value or a DropReason; past it nobody
indexes raw bytes. It looks at the IP header (RFC 791, RFC 8200) with a bounded walk
of extension headers, and at the first octets of TCP, UDP and ICMP; never at a payload.
The writers make whole packets with checksums filled in. They serve errors and DNS answers only:
packets of flows are forwarded verbatim (`shim.gate.io.packet_path`).

Left out, on purpose: fragments (refused here; `reassembly` makes whole packets of them first),
options of any kind, and all of TCP beyond the first SYN, which the kernel handles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shim.gate.wire.tun import VNET_HEADER_BYTES
from shim.protocol.gate import DropReason, Reason

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

_ECHO_REQUEST: Final = 8
_ECHO_REQUEST6: Final = 128

_MORE_FRAGMENTS_OR_OFFSET: Final = 0x3FFF
_EXTENSIONS: Final = frozenset({0, 43, 60})
"""Hop-by-hop options, routing, destination options: those that only have to be stepped over."""
_FRAGMENT_HEADER: Final = 44
_MAX_EXTENSIONS: Final = 8
_HOP_LIMIT: Final = 64
_NEEDS_CHECKSUM: Final = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM (virtio 1.2 §5.1.6)."""

_ICMP_QUOTE_BYTES: Final = 548
"""RFC 1812 §4.3.2.3: as much of the packet as fits into 576 octets."""
_ICMPV6_QUOTE_BYTES: Final = 1232
"""RFC 4443 §3.1: as much of the packet as fits into the minimum IPv6 MTU of 1280 octets."""

FlowKey = bytes
"""Source and destination address and port in network order: 12 or 36 bytes."""


class Unreachable(IntEnum):
    """Codes of destination unreachable (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3.1)."""

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
    def framed(self) -> bytes:
        """The packet behind its virtio header."""
        return self.offload + self.raw

    @property
    def key(self) -> FlowKey:
        """The flow that the packet belongs to."""
        return flow_key(self.source, self.destination, self.source_port, self.destination_port)

    @property
    def hop_limit(self) -> int:
        """How many more routers the packet may pass, plus one (TTL, RFC 791; RFC 8200 §3)."""
        return self.raw[8] if len(self.source) == 4 else self.raw[7]

    @property
    def is_echo_request(self) -> bool:
        """Whether this is an ICMP echo request (RFC 792, RFC 4443 §4.1)."""
        if len(self.source) == 4:
            return self.protocol == ICMP and self.raw[self.transport] == _ECHO_REQUEST
        return self.protocol == ICMPV6 and self.raw[self.transport] == _ECHO_REQUEST6

    @property
    def is_icmp_answer(self) -> bool:
        """Whether this is an ICMP error or the like, which no error answers (RFC 1122 §3.2.2)."""
        return self.protocol in (ICMP, ICMPV6) and not self.is_echo_request

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
    """Return the destination address of a flow, None if the key is malformed."""
    if len(key) not in (12, 36):
        return None
    size = (len(key) - 4) // 2
    return key[size : 2 * size]


def read(framed: bytes) -> Packet | DropReason:
    """Return the packet behind a virtio header, or the reason to drop it."""
    offload, raw = framed[:VNET_HEADER_BYTES], framed[VNET_HEADER_BYTES:]
    if not raw:
        return DropReason.SHORT
    version = raw[0] >> 4
    if version == 4:
        return _read_v4(raw, offload)
    if version == 6:
        return _read_v6(raw, offload)
    return DropReason.VERSION


def _read_v4(raw: bytes, offload: bytes) -> Packet | DropReason:
    if len(raw) < 20:
        return DropReason.SHORT
    header = (raw[0] & 0x0F) * 4
    total = int.from_bytes(raw[2:4])
    if header < 20 or total < header or total > len(raw):
        return DropReason.LENGTH
    if int.from_bytes(raw[6:8]) & _MORE_FRAGMENTS_OR_OFFSET:
        return DropReason.FRAGMENT
    if checksum(raw[:header]):
        return DropReason.CHECKSUM
    source, destination = raw[12:16], raw[16:20]
    if source == destination:
        return DropReason.LAND
    if source[0] in (0, 127) or source[0] >= 224:
        return DropReason.SOURCE
    return _read_transport(raw[:total], offload, source, destination, raw[9], header)


def _read_v6(raw: bytes, offload: bytes) -> Packet | DropReason:
    if len(raw) < 40:
        return DropReason.SHORT
    total = 40 + int.from_bytes(raw[4:6])
    if total > len(raw):
        return DropReason.LENGTH
    source, destination = raw[8:24], raw[24:40]
    if source == destination:
        return DropReason.LAND
    if source[0] == 0xFF or source[:15] == bytes(15):
        return DropReason.SOURCE
    protocol, offset = raw[6], 40
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            break
        if offset + 8 > total:
            return DropReason.SHORT
        protocol, offset = raw[offset], offset + 8 + raw[offset + 1] * 8
    else:
        return DropReason.EXTENSIONS
    if protocol == _FRAGMENT_HEADER:
        return DropReason.FRAGMENT
    if offset > total:
        return DropReason.SHORT
    return _read_transport(raw[:total], offload, source, destination, protocol, offset)


def _read_transport(
    raw: bytes, offload: bytes, source: bytes, destination: bytes, protocol: int, offset: int
) -> Packet | DropReason:
    rest = len(raw) - offset
    source_port = destination_port = flags = 0
    if protocol in (TCP, UDP):
        if rest < (20 if protocol == TCP else 8):
            return DropReason.SHORT
        source_port, destination_port = struct.unpack_from("!HH", raw, offset)
        if not source_port or not destination_port:
            return DropReason.PORT
    if protocol == TCP:
        if not 20 <= (raw[offset + 12] >> 4) * 4 <= rest:
            return DropReason.LENGTH
        flags = raw[offset + 13]
    elif protocol == UDP and not 8 <= int.from_bytes(raw[offset + 4 : offset + 6]) <= rest:
        return DropReason.LENGTH
    elif protocol in (ICMP, ICMPV6) and rest < 8:
        return DropReason.SHORT
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


def unreachable(packet: Packet, code: Unreachable, sender: bytes) -> bytes:
    """Return the ICMP error by which a router of the packet's family answers it."""
    if len(packet.source) == 4:
        return icmp_error(packet.raw, 3, code, 0, sender)
    if code == Unreachable.PROTOCOL:
        # RFC 4443 §3.4: an unrecognized next header is a parameter problem, at its offset.
        return icmp_error(packet.raw, 4, 1, _next_header_at(packet), sender)
    return icmp_error(packet.raw, 1, _ICMPV6_CODES[code], 0, sender)


def _next_header_at(packet: Packet) -> int:
    """Return the offset of the next header field that names the transport."""
    at, offset = 6, 40
    while offset < packet.transport:
        at, offset = offset, offset + 8 + packet.raw[offset + 1] * 8
    return at


def time_exceeded(packet: Packet, sender: bytes) -> bytes:
    """Return the ICMP error about a packet whose hop limit is used up (RFC 792, RFC 4443 §3.3)."""
    kind = 11 if len(packet.source) == 4 else 3
    return icmp_error(packet.raw, kind, 0, 0, sender)


def icmp_error(packet: bytes, kind: int, code: int, info: int, sender: bytes) -> bytes:
    """Return an ICMP error about `packet`, to where that came from.

    `packet` begins with its IP header, and need not be whole. `kind` and `code` are those of the
    family of `sender`, `info` the four bytes behind the checksum: a pointer, an MTU, or 0.
    """
    head = struct.pack("!BBHI", kind, code, 0, info)
    if len(sender) == 4:
        body = head + packet[:_ICMP_QUOTE_BYTES]
        return _wrap(sender, packet[12:16], ICMP, body, checksum_at=2)
    body = head + packet[:_ICMPV6_QUOTE_BYTES]
    return _wrap(sender, packet[8:24], ICMPV6, body, checksum_at=2)


def quotation(packet: Packet) -> bytes:
    """Return the start of a packet, as much of it as an ICMP error about it quotes."""
    size = _ICMP_QUOTE_BYTES if len(packet.source) == 4 else _ICMPV6_QUOTE_BYTES
    return packet.raw[:size]


def echo_of(request: Packet) -> tuple[int, int, bytes]:
    """Return identifier, sequence number and payload of an echo request (RFC 792)."""
    identifier, sequence = struct.unpack_from("!HH", request.raw, request.transport + 4)
    return identifier, sequence, request.raw[request.transport + 8 :]


def echo_reply(
    source: bytes,
    destination: bytes,
    identifier: int,
    sequence: int,
    payload: bytes,
    *,
    hop_limit: int = _HOP_LIMIT,
) -> bytes:
    """Return an echo reply (RFC 792, RFC 4443 §4.2); at most `max_payload` octets of it."""
    kind, protocol = (0, ICMP) if len(source) == 4 else (129, ICMPV6)
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + payload
    return _wrap(source, destination, protocol, body, checksum_at=2, hop_limit=hop_limit)


def max_payload(address: bytes) -> int:
    """Return the largest payload of an echo or a datagram in the family of an address.

    A packet has 65535 octets: in IPv4 with its header (RFC 791), in IPv6 without (RFC 8200 §3).
    """
    return 65507 if len(address) == 4 else 65527


def has_valid_checksum(message: Packet) -> bool:
    """Whether the checksum of TCP or ICMP is right, or left for the device to fill in."""
    if message.offload[0] & _NEEDS_CHECKSUM:
        return True
    body = message.raw[message.transport :]
    if message.protocol == ICMP:
        return checksum(body) == 0
    pseudo = _pseudo(message.source, message.destination, message.protocol, len(body))
    return checksum(pseudo + body) == 0


def datagram(source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a UDP packet (RFC 768). `ports` are the source's and the destination's."""
    head = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    return _wrap(source, destination, UDP, head + payload, checksum_at=6)


def _wrap(
    source: bytes,
    destination: bytes,
    protocol: int,
    body: bytes,
    *,
    checksum_at: int,
    hop_limit: int = _HOP_LIMIT,
) -> bytes:
    """Return a packet with the checksum of its body filled in at offset `checksum_at`."""
    pseudo = _pseudo(source, destination, protocol, len(body))
    covered = body if protocol == ICMP else pseudo + body
    # RFC 768: a UDP checksum that comes out as zero is sent as all ones.
    value = checksum(covered) or (0xFFFF if protocol == UDP else 0)
    body = body[:checksum_at] + value.to_bytes(2) + body[checksum_at + 2 :]
    if len(source) == 16:
        return (
            struct.pack("!IHBB", 6 << 28, len(body), protocol, hop_limit)
            + source
            + destination
            + body
        )
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, hop_limit, protocol, 0, source, destination
    )
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + body


def _pseudo(source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    """Return the pseudo-header that a checksum covers (RFC 8200 §8.1; RFC 768)."""
    return source + destination + struct.pack("!II", size, protocol)


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
