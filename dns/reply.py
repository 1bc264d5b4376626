"""The answer to a query as a stub resolver gets it, read within bounds for people to look at.

Octets of any server become a `Reply`, with all records of class IN (`dns.records`) and what EDNS
adds to the response code, or raise `WireError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dns.codes import RCode, RRType
from dns.records import Reader, Record
from dns.wire import HEADER, read_question, read_record

_EVERY: Final = range(0x10000)
_NO_LIMIT_S: Final = 0x7FFFFFFF
_EXTENDED_ERROR: Final = 15


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `why` is the text of an extended error (RFC 8914), or empty."""

    rcode: int
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    why: str

    @property
    def rcode_name(self) -> str:
        """The name of the response code, RCODE and a number for one without."""
        try:
            return RCode(self.rcode).name
        except ValueError:
            return f"RCODE{self.rcode}"


def read_reply(wire: bytes) -> Reply:
    """Return what an answer says (`dns.upstream.is_answer`). Raises WireError."""
    _, flags, questions, count, authority, additional = HEADER.unpack_from(wire)
    offset = read_question(wire)[3] if questions else HEADER.size
    reader = Reader(wire)
    found, offset = reader.read(offset, count, _EVERY, _NO_LIMIT_S)
    others, offset = reader.read(offset, authority, _EVERY, _NO_LIMIT_S)
    upper, why = _read_opt(wire, offset, additional)
    return Reply(upper << 4 | flags & 0xF, tuple(found), tuple(others), why)


def _read_opt(wire: bytes, offset: int, count: int) -> tuple[int, str]:
    """Return the upper bits of the response code, and the text of an extended error."""
    for _ in range(count):
        record, end = read_record(wire, offset)
        if record.rtype == RRType.OPT:
            return record.ttl >> 24, _extended(wire[end - record.rdlength : end])
        offset = end
    return 0, ""


def _extended(options: bytes) -> str:
    while len(options) >= 4:
        code, size = struct.unpack_from("!HH", options)
        data, options = options[4 : 4 + size], options[4 + size :]
        if code == _EXTENDED_ERROR and len(data) >= 2:
            text = data[2:].decode("utf-8", "replace")
            return "".join(one if one.isprintable() else "?" for one in text)
    return ""
