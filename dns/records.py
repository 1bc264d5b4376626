"""Resource records, read from hostile octets and written again.

Theory of operation
-------------------
A record can only be copied into another message if the names in its data are not compressed.
Types of RFC 1035, and a few that are as old, may have compressed names in their data (RFC 3597
§4); these are listed with the layout of their data. All other data is opaque.

A reader is for one message. Two rules bound the cost of a message of any length:

- a compression pointer leads to before the name that it is part of, so that every name ends
  (RFC 1035 §4.1.4: "a prior occurrence");
- all names of a message together have at most `MAX_LABELS` labels and pointers. A name that was
  read once, or pointed to, is remembered by its offset: the usual pointer to the question costs
  one.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from typing import Final, NamedTuple

from dns.codes import IN
from dns.names import MAX_LABEL, MAX_NAME
from dns.wire import HEADER, POINTER, WireError, read_record

MAX_LABELS: Final = 4096

_OFFSET: Final = 0x3FFF
_TO_QUESTION: Final = struct.pack("!H", POINTER << 8 | HEADER.size)
_HEAD: Final = struct.Struct("!HHIH")

_NAME: Final = -1
_TEXT: Final = -2
_LAYOUTS: Final[dict[int, tuple[int, ...]]] = {
    **dict.fromkeys((2, 3, 4, 5, 7, 8, 9, 12, 39), (_NAME,)),  # NS … CNAME … PTR, DNAME
    **dict.fromkeys((14, 17), (_NAME, _NAME)),  # MINFO, RP
    **dict.fromkeys((15, 18, 21, 36), (2, _NAME)),  # MX, AFSDB, RT, KX
    6: (_NAME, _NAME, 20),  # SOA
    26: (2, _NAME, _NAME),  # PX
    33: (6, _NAME),  # SRV
    35: (4, _TEXT, _TEXT, _TEXT, _NAME),  # NAPTR
}
"""Octets, names and character strings (RFC 1035 §3.3) of the data, by type."""


class Record(NamedTuple):
    """A record; its owner and the names in its data are octets without compression."""

    owner: bytes
    rtype: int
    rclass: int
    ttl_s: int
    data: bytes


def write_record(record: Record, question: bytes) -> bytes:
    """Return a record as octets, for a message whose question is for the name `question`.

    An owner that is this name, in any case, is written as a pointer to it; no other name is
    compressed. Raises ValueError if the data has more than 65535 octets.
    """
    if len(record.data) > 0xFFFF:
        raise ValueError("too much data for a record")
    owner = _TO_QUESTION if record.owner.lower() == question.lower() else record.owner
    head = _HEAD.pack(record.rtype, record.rclass, record.ttl_s, len(record.data))
    return owner + head + record.data


class Reader:
    """Reads the records of one message."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire
        self._known: dict[int, bytes] = {}
        self._left = MAX_LABELS

    def read(
        self, offset: int, count: int, rtypes: Container[int], most_s: int
    ) -> tuple[list[Record], int]:
        """Return those of `count` records with class IN and such a type, and the offset behind.

        No TTL is longer than `most_s`. Raises WireError.
        """
        found = []
        for _ in range(count):
            start = offset
            (_, rtype, rclass, ttl_s, rdlength), offset = read_record(self._wire, start)
            if rclass != IN or rtype not in rtypes:
                continue
            # RFC 2181 §8: a TTL with the uppermost bit set counts as 0.
            ttl_s = min(ttl_s, most_s) if ttl_s < 1 << 31 else 0
            data = self._data(rtype, offset - rdlength, offset)
            found.append(Record(self._name(start)[0], rtype, IN, ttl_s, data))
        return found, offset

    def _data(self, rtype: int, offset: int, end: int) -> bytes:
        layout = _LAYOUTS.get(rtype)
        if layout is None:
            return self._wire[offset:end]
        parts = []
        for part in layout:
            if part == _NAME:
                name, behind = self._name(offset)
                parts.append(name)
            else:
                behind = offset + part if part != _TEXT else offset + 1 + self._octet(offset)
                parts.append(self._wire[offset:behind])
            offset = behind
            if offset > end:
                raise WireError("record data cut short")
        if offset != end:
            raise WireError("record data goes on")
        return b"".join(parts)

    def _name(self, start: int) -> tuple[bytes, int]:
        """Return the name at `start`, pointers followed, and the offset behind it."""
        name, end, begin, offset = b"", 0, start, start
        places = [(start, 0)]
        while length := self._octet(offset):
            self._left -= 1
            if not self._left:
                raise WireError("too many labels")
            if length < POINTER:
                if length > MAX_LABEL:
                    raise WireError("not a label")
                offset += 1 + length
                continue
            name += self._wire[begin:offset]
            end = end or offset + 2
            target = (length << 8 | self._octet(offset + 1)) & _OFFSET
            if target >= begin:
                raise WireError("pointer does not lead backwards")
            if target in self._known:
                name += self._known[target]
                break
            places.append((target, len(name)))
            begin = offset = target
        else:
            name += self._wire[begin : offset + 1]
            end = end or offset + 1
        if len(name) > MAX_NAME:
            raise WireError("name too long")
        for place, before in places:
            self._known[place] = name[before:]
        return name, end

    def _octet(self, offset: int) -> int:
        try:
            return self._wire[offset]
        except IndexError:
            raise WireError("name cut short") from None
