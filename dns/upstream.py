"""Asking a resolver at the far end, and reading no more of its answer than we need.

The far end is asked whether a name has records of a type; which ones is its business, since
applications get virtual addresses. So an answer is one word, and its octets, which the far end or
a host behind it chose, are read by `dns.wire` like those of any stranger.
"""

from __future__ import annotations

from enum import Enum, auto

from dns.codes import IN, RCode
from dns.names import fold, from_text, to_wire
from dns.wire import (
    HEADER,
    QR,
    QUESTION_TAIL,
    RD,
    TC,
    WireError,
    opcode_of,
    read_question,
    read_record,
)

MAX_ANSWERS = 256
"""Records read in search of one of the type: more than any chain of CNAMEs has."""


class Outcome(Enum):
    """What the far end says about a name and a type."""

    FOUND = auto()
    """There are records of the type, perhaps behind CNAMEs."""
    NO_DATA = auto()
    """The name exists, and has no record of the type."""
    NX_DOMAIN = auto()
    """There is no such name."""
    REFUSED = auto()
    """A policy of the far end forbids to say."""
    FAILED = auto()
    """Anything else: no answer, SERVFAIL, or octets that are no answer to the question."""
    UNREACHABLE = auto()
    """Nothing: it could not be asked."""


_BY_RCODE: dict[int, Outcome] = {
    RCode.NXDOMAIN: Outcome.NX_DOMAIN,
    RCode.REFUSED: Outcome.REFUSED,
}


def build_query(ident: int, name: str, rtype: int) -> bytes:
    """Return a recursive query of class IN. Raises ValueError where `name` is no host name."""
    question = to_wire(from_text(name)) + QUESTION_TAIL.pack(rtype, IN)
    return HEADER.pack(ident, RD, 1, 0, 0, 0) + question


def read_outcome(wire: bytes, ident: int, name: str, rtype: int) -> Outcome:
    """Return what `wire` says in answer to `build_query(ident, name, rtype)`.

    Total on any octets. A truncated answer is FAILED: the stream below has room for a whole one.
    """
    try:
        return _read(wire, ident, name, rtype)
    except WireError:
        return Outcome.FAILED


def read_data(wire: bytes, ident: int, name: str, rtype: int) -> list[bytes]:
    """Return the data of each record of the type in an answer to `build_query(…)`.

    Total on any octets; what is no such answer has no such record.
    """
    try:
        if _read(wire, ident, name, rtype) is not Outcome.FOUND:
            return []
        found, offset = [], read_question(wire)[3]
        for _ in range(HEADER.unpack_from(wire)[3]):
            record, offset = read_record(wire, offset)
            if (record.rtype, record.rclass) == (rtype, IN):
                found.append(wire[offset - record.rdlength : offset])
    except WireError:
        return []
    return found


def _read(wire: bytes, ident: int, name: str, rtype: int) -> Outcome:
    if len(wire) < HEADER.size:
        raise WireError("shorter than a header")
    got, flags, questions, answers, _, _ = HEADER.unpack_from(wire)
    if got != ident or not flags & QR or flags & TC or opcode_of(flags) or questions != 1:
        return Outcome.FAILED
    labels, qtype, qclass, offset = read_question(wire)
    if (fold(labels), qtype, qclass) != (from_text(name), rtype, IN):
        return Outcome.FAILED
    rcode = flags & 0xF
    if rcode != RCode.NOERROR:
        return _BY_RCODE.get(rcode, Outcome.FAILED)
    for _ in range(min(answers, MAX_ANSWERS)):
        record, offset = read_record(wire, offset)
        if (record.rtype, record.rclass) == (rtype, IN):
            return Outcome.FOUND
    return Outcome.NO_DATA if answers <= MAX_ANSWERS else Outcome.FAILED
