"""Tests of a captured packet, in the buffer it was read into, that need no copy of it. Pure.

They decide for most packets where these go. What they do not recognize takes the slow path, through
`shim.gate.wire.packet.read`. The buffer holds a virtio header and `size` bytes in all; what is
behind them is left from packets before.
"""

from __future__ import annotations

from typing import Final

from shim.gate.wire import packet, tun

DNS_PORT: Final = 53

_HEADER: Final = tun.VNET_HEADER_BYTES
_PLAIN_IPV4: Final = 0x45
_DNS_PORT_OCTETS: Final = DNS_PORT.to_bytes(2)


def is_segment_of_flow(buffer: bytearray, size: int) -> bool:
    """Whether this is plain TCP without SYN: unfragmented, no IPv6 extension header.

    A packet whose hop limit is used up is none: the gate is a router.
    """
    version = buffer[_HEADER] >> 4
    if version == 4:
        if (
            size < _HEADER + 40
            or buffer[_HEADER + 8] <= 1
            or buffer[_HEADER + 9] != packet.TCP
            or buffer[_HEADER + 6] & 0x3F
            or buffer[_HEADER + 7]
        ):
            return False
        flags = _HEADER + (buffer[_HEADER] & 0x0F) * 4 + 13
    elif version == 6:
        if size < _HEADER + 60 or buffer[_HEADER + 7] <= 1 or buffer[_HEADER + 6] != packet.TCP:
            return False
        flags = _HEADER + 40 + 13
    else:
        return False
    return flags < size and not buffer[flags] & packet.SYN


def is_datagram(buffer: bytearray, size: int) -> bool:
    """Whether this is plain UDP, not to port 53: no fragment, no option, no extension header."""
    if buffer[_HEADER] == _PLAIN_IPV4:
        if buffer[_HEADER + 9] != packet.UDP or buffer[_HEADER + 6] & 0x3F or buffer[_HEADER + 7]:
            return False
        port = _HEADER + 22
    elif buffer[_HEADER] >> 4 == 6 and buffer[_HEADER + 6] == packet.UDP:
        port = _HEADER + 42
    else:
        return False
    return port + 2 <= size and buffer[port : port + 2] != _DNS_PORT_OCTETS
