"""The headers of a captured packet, for lines and filters. Pure, and total: any bytes will do.

IP (RFC 791, RFC 8200) with a bounded walk of extension headers, and the first octets of TCP, UDP
and ICMP. What is not there, in a fragment or a packet that was cut off, is left empty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS = 0, 43, 44, 60  # RFC 8200 §4
_EXTENSIONS: Final = frozenset({_HOP_BY_HOP, _ROUTING, _OPTIONS})
_MAX_EXTENSIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Headers:
    """Ports are 0 where there are none; `kind` and `code` are those of ICMP.

    `length` counts the bytes behind the last header that was understood, on the wire.
    """

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    length: int
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    kind: int = 0
    code: int = 0
    is_fragment: bool = False


def read(packet: bytes, length: int) -> Headers | None:
    """Return the headers of a packet of `length` bytes, of which there may be less here."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return _read_v4(packet, length)
    if version == 6 and len(packet) >= 40:
        return _read_v6(packet, length)
    return None


def _read_v4(packet: bytes, length: int) -> Headers:
    offset = max(20, (packet[0] & 0x0F) * 4)
    place = int.from_bytes(packet[6:8])
    found = Headers(
        ip_address(packet[12:16]),
        ip_address(packet[16:20]),
        packet[9],
        max(0, length - offset),
        is_fragment=bool(place & 0x3FFF),
    )
    return found if place & 0x1FFF else _read_transport(found, packet[offset:])


def _read_v6(packet: bytes, length: int) -> Headers:
    protocol, offset, place = packet[6], 40, 0
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in (*_EXTENSIONS, _FRAGMENT) or offset + 8 > len(packet) or place > 7:
            break
        if protocol == _FRAGMENT:
            place = int.from_bytes(packet[offset + 2 : offset + 4]) or 1
            protocol, offset = packet[offset], offset + 8
        else:
            protocol, offset = packet[offset], offset + 8 + packet[offset + 1] * 8
    found = Headers(
        ip_address(packet[8:24]),
        ip_address(packet[24:40]),
        protocol,
        max(0, length - offset),
        is_fragment=place > 0,
    )
    return found if place > 7 else _read_transport(found, packet[offset:])


def _read_transport(found: Headers, segment: bytes) -> Headers:
    if found.protocol in (TCP, UDP) and len(segment) >= 8:
        header = 8
        flags = 0
        if found.protocol == TCP and len(segment) >= 14:
            header, flags = (segment[12] >> 4) * 4, segment[13]
        return replace(
            found,
            source_port=int.from_bytes(segment[0:2]),
            destination_port=int.from_bytes(segment[2:4]),
            flags=flags,
            length=max(0, found.length - header),
        )
    if found.protocol in (ICMP, ICMPV6) and len(segment) >= 8:
        return replace(found, kind=segment[0], code=segment[1], length=max(0, found.length - 8))
    return found
