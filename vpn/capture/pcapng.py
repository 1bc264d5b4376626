"""The blocks of a capture file: PCAP Next Generation (draft-ietf-opsawg-pcapng). Pure.

One section, one interface, and a block for each packet. A file is valid wherever it ends between
two blocks. Sections below are those of the draft; everything is little-endian, which it allows.
"""

from __future__ import annotations

import struct
from typing import Final

LINKTYPE_RAW: Final = 101
"""Packets begin with an IPv4 or IPv6 header (tcpdump.org/linktypes.html)."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC: Final = 0x1A2B3C4D
_COMMENT: Final = 1  # §3.5
_USER_APPLICATION: Final = 4  # §4.1
_NAME, _RESOLUTION = 2, 9  # §4.2
_FLAGS, _DROPS = 2, 4  # §4.3
_NANOSECONDS: Final = b"\x09"
_INBOUND, _OUTBOUND = 1, 2  # §4.3.1


def header(interface: str, snap_bytes: int) -> bytes:
    """Return the beginning of a file. No packet in it is longer than `snap_bytes`."""
    section = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
    section += _option(_USER_APPLICATION, b"overlay-vpn") + _END
    described = struct.pack("<HHI", LINKTYPE_RAW, 0, snap_bytes)
    described += _option(_NAME, interface.encode()) + _option(_RESOLUTION, _NANOSECONDS) + _END
    return _block(_SECTION, section) + _block(_INTERFACE, described)


def packet(
    time_ns: int, data: bytes, length: int, *, is_outgoing: bool, comment: str, dropped: int
) -> bytes:
    """Return the block of a packet of `length` bytes, which was cut off if `data` is shorter.

    `time_ns` counts from 1970 in UTC, `dropped` the packets that were lost since the one before.
    """
    body = struct.pack("<IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), length)
    body += _padded(data)
    if comment:
        body += _option(_COMMENT, comment.encode(errors="replace"))
    body += _option(_FLAGS, struct.pack("<I", _OUTBOUND if is_outgoing else _INBOUND))
    if dropped:
        body += _option(_DROPS, struct.pack("<Q", dropped))
    return _block(_PACKET, body + _END)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


_END: Final = _option(0, b"")
