"""The primitives of reading a DNS message with hostile octets.

Theory of operation
-------------------
Every function takes the whole message and an offset, and returns its result and the offset behind
it, or raises `WireError`. None recurses and none follows a compression pointer, so that no input
costs more than one pass over its octets:

- the question has the first name of a message, with nothing before it that a pointer could point
  to, so a pointer in it is an error (RFC 1035 §4.1.4);
- of records only the type and the length are read, and a name ends with its pointer.

Label types 0x40 and 0x80 are errors as well: extended labels are historic (RFC 6891 §5) and no
other type was ever assigned.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from dns.names import MAX_LABEL, MAX_NAME, Labels

HEADER = struct.Struct("!6H")
"""Id, flags, and the counts of the four sections (RFC 1035 §4.1.1)."""
QUESTION_TAIL = struct.Struct("!2H")
"""Type and class behind the name of a question (RFC 1035 §4.1.2)."""
_RECORD_TAIL = struct.Struct("!HHIH")

QR = 0x8000
TC = 0x0200
RD = 0x0100
RA = 0x0080
CD = 0x0010

POINTER = 0xC0
"""The two upper bits of the first octet of a compression pointer (RFC 1035 §4.1.4)."""


class WireError(ValueError):
    """The octets are not a DNS message."""


class RecordHeader(NamedTuple):
    """A resource record without its data; `is_at_root` says that its owner is the root."""

    is_at_root: bool
    rtype: int
    rclass: int
    ttl: int
    rdlength: int


def opcode_of(flags: int) -> int:
    """Return the kind of query, four bits (RFC 1035 §4.1.1)."""
    return flags >> 11 & 0xF


def read_question(wire: bytes) -> tuple[Labels, int, int, int]:
    """Return the name, type and class of the only question, and the offset behind it.

    Raises WireError; also where the name has a compression pointer.
    """
    labels: list[bytes] = []
    offset = HEADER.size
    while True:
        length = _octet(wire, offset)
        if length > MAX_LABEL:
            raise WireError("not a label")
        offset += 1
        if offset + length - HEADER.size > MAX_NAME:
            raise WireError("name too long")
        if not length:
            break
        labels.append(wire[offset : offset + length])
        offset += length
    end = offset + QUESTION_TAIL.size
    if end > len(wire):
        raise WireError("question cut short")
    qtype, qclass = QUESTION_TAIL.unpack_from(wire, offset)
    return tuple(labels), qtype, qclass, end


def read_record(wire: bytes, offset: int) -> tuple[RecordHeader, int]:
    """Return the record at `offset` and the offset behind it. Raises WireError."""
    tail = _skip_name(wire, offset)
    data = tail + _RECORD_TAIL.size
    if data > len(wire):
        raise WireError("record cut short")
    rtype, rclass, ttl, rdlength = _RECORD_TAIL.unpack_from(wire, tail)
    if data + rdlength > len(wire):
        raise WireError("record data cut short")
    return RecordHeader(not wire[offset], rtype, rclass, ttl, rdlength), data + rdlength


def _skip_name(wire: bytes, offset: int) -> int:
    start = offset
    while length := _octet(wire, offset):
        if length >= POINTER:
            return offset + 2
        if length > MAX_LABEL:
            raise WireError("not a label")
        offset += 1 + length
        if offset - start >= MAX_NAME:
            raise WireError("name too long")
    return offset + 1


def _octet(wire: bytes, offset: int) -> int:
    try:
        return wire[offset]
    except IndexError:
        raise WireError("name cut short") from None
