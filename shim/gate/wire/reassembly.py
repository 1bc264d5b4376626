"""Reassembly of fragmented datagrams. Pure.

Theory of operation
-------------------
RFC 791 §3.2 and RFC 8200 §4.5. Fragments with the same addresses, protocol and identification are
kept until all octets are there; the packet that comes out looks as if it had never been taken
apart: the header of the first fragment, with the whole length. Only UDP and ICMP are reassembled;
everything else is dropped as a fragment.

A fragment that overlaps another one spoils its datagram (RFC 5722 §4): nothing of it is used, now
or later. One that is there already, octet for octet, is a duplicate and ignored. A datagram that
is not complete in `TIMEOUT_S` is forgotten.

Bounds: `MAX_BYTES` of fragments in all, with `OVERHEAD_BYTES` for each; beyond, the oldest datagram
is forgotten. No datagram is larger than its length field can say.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from shim.gate.wire.packet import ICMP, ICMPV6, UDP, checksum
from shim.protocol.gate import DropReason

TIMEOUT_S: Final = 30.0
"""As Linux does (ip-sysctl, ipfrag_time); RFC 8200 §4.5 allows 60."""

MAX_BYTES: Final = 4 << 20
OVERHEAD_BYTES: Final = 256

_MAX_LENGTH: Final = 65535
_FRAGMENT_HEADER: Final = 44
_EXTENSIONS: Final = frozenset({0, 43, 60})
_MAX_EXTENSIONS: Final = 8
_SERVED: Final = frozenset({UDP, ICMP, ICMPV6})


@dataclass(frozen=True, slots=True)
class _Fragment:
    """`before` is the header of a packet without fragmentation, its length still to be set.

    `offset` counts octets of what was taken apart.
    """

    key: bytes
    before: bytes
    offset: int
    data: bytes
    is_last: bool


@dataclass(slots=True)
class _Datagram:
    """The fragments of one so far. `end` is its length, None until the last fragment has come."""

    since: float
    header: bytes | None = None
    end: int | None = None
    is_spoiled: bool = False
    has: int = 0
    size: int = 0
    offsets: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)


class Fragments:
    """All datagrams that are not complete."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._datagrams: dict[bytes, _Datagram] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._datagrams)

    def add(self, raw: bytes, now: float) -> bytes | DropReason | None:
        """Take a packet that is a fragment.

        Returns the datagram that it completes, if it does, or why nothing will come of it.
        """
        fragment = _read(raw)
        if fragment is None:
            return DropReason.FRAGMENT
        datagram = self._datagrams.get(fragment.key)
        if datagram is None:
            datagram = self._datagrams[fragment.key] = _Datagram(now)
        if datagram.is_spoiled:
            return DropReason.FRAGMENT
        if not _fits(datagram, fragment):
            self._bytes -= datagram.size
            datagram = self._datagrams[fragment.key] = _Datagram(datagram.since, is_spoiled=True)
            self._count(datagram)
            return DropReason.FRAGMENT
        if datagram.end is not None and datagram.header and datagram.has == datagram.end:
            self._forget(fragment.key)
            return _whole(datagram.header, b"".join(datagram.pieces))
        return DropReason.FRAGMENT_LIMIT if self._count(datagram) else None

    def expire(self, now: float) -> int:
        """Forget datagrams that were not completed in time. Returns the number of fragments."""
        lost = 0
        for key, datagram in list(self._datagrams.items()):
            if now - datagram.since <= TIMEOUT_S:
                break
            lost += len(datagram.pieces)
            self._forget(key)
        return lost

    def _count(self, datagram: _Datagram) -> bool:
        """Whether another one had to make room."""
        is_over = False
        size = datagram.has + OVERHEAD_BYTES * (1 + len(datagram.pieces))
        self._bytes += size - datagram.size
        datagram.size = size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._datagrams)))
            is_over = True
        return is_over

    def _forget(self, key: bytes) -> None:
        self._bytes -= self._datagrams.pop(key).size


def _fits(datagram: _Datagram, fragment: _Fragment) -> bool:
    """Add a fragment to a datagram. False if it contradicts those before."""
    start, end = fragment.offset, fragment.offset + len(fragment.data)
    place = bisect_left(datagram.offsets, start)
    if place < len(datagram.offsets) and datagram.offsets[place] == start:
        return datagram.pieces[place] == fragment.data
    is_beyond = datagram.end is not None and (end > datagram.end or fragment.is_last)
    if is_beyond or (fragment.is_last and datagram.offsets and _end_of(datagram, -1) > end):
        return False
    if place and _end_of(datagram, place - 1) > start:
        return False
    if place < len(datagram.offsets) and datagram.offsets[place] < end:
        return False
    datagram.offsets.insert(place, start)
    datagram.pieces.insert(place, fragment.data)
    datagram.has += len(fragment.data)
    if fragment.is_last:
        datagram.end = end
    if not start:
        datagram.header = fragment.before
    return True


def _end_of(datagram: _Datagram, place: int) -> int:
    return datagram.offsets[place] + len(datagram.pieces[place])


def _read(raw: bytes) -> _Fragment | None:
    """Return the fragment that a packet is; None if it is none, or none that is served."""
    if len(raw) < 20:
        return None
    fragment = _read_v4(raw) if raw[0] >> 4 == 4 else _read_v6(raw)
    if fragment is None or not fragment.data:
        return None
    if not fragment.is_last and len(fragment.data) % 8:
        return None
    room = _MAX_LENGTH - (len(fragment.before) if raw[0] >> 4 == 4 else len(fragment.before) - 40)
    return fragment if fragment.offset + len(fragment.data) <= room else None


def _read_v4(raw: bytes) -> _Fragment | None:
    header, total = (raw[0] & 0x0F) * 4, int.from_bytes(raw[2:4])
    if header < 20 or not header <= total <= len(raw) or raw[9] not in _SERVED:
        return None
    place = int.from_bytes(raw[6:8])
    key = raw[12:20] + raw[9:10] + raw[4:6]
    before = raw[:6] + bytes(2) + raw[8:header]
    offset, more = (place & 0x1FFF) * 8, place & 0x2000
    return _Fragment(key, before, offset, raw[header:total], not more)


def _read_v6(raw: bytes) -> _Fragment | None:
    total = 40 + int.from_bytes(raw[4:6])
    if len(raw) < 40 or total > len(raw):
        return None
    protocol_at, offset = 6, 40
    for _ in range(_MAX_EXTENSIONS):
        if raw[protocol_at] not in _EXTENSIONS or offset + 8 > total:
            break
        protocol_at, offset = offset, offset + 8 + raw[offset + 1] * 8
        if offset > total:
            return None
    if raw[protocol_at] != _FRAGMENT_HEADER or offset + 8 > total or raw[offset] not in _SERVED:
        return None
    place = int.from_bytes(raw[offset + 2 : offset + 4])
    before = raw[:protocol_at] + raw[offset : offset + 1] + raw[protocol_at + 1 : offset]
    key = raw[8:40] + raw[offset + 4 : offset + 8]
    return _Fragment(key, before, place & 0xFFF8, raw[offset + 8 : total], not place & 1)


def _whole(header: bytes, data: bytes) -> bytes | DropReason:
    # The headers of the others may have been shorter than that of the first.
    length = len(header) + len(data) - (40 if header[0] >> 4 == 6 else 0)
    if length > _MAX_LENGTH:
        return DropReason.FRAGMENT
    if header[0] >> 4 == 6:
        return header[:4] + length.to_bytes(2) + header[6:] + data
    header = header[:2] + length.to_bytes(2) + header[4:10] + bytes(2) + header[12:]
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + data
