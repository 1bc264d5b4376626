"""The parser of queries, for hostile octets.

Theory of operation
-------------------
`parse_query` is total: any octets give a legal `Query`, a `Malformed` with the response code to
answer, or None where no answer is due. Nothing behind it sees raw flags. It makes one pass over at
most `MAX_RECORDS` records, without recursion: 64 KiB cost as much as their first few hundred
octets.

Answered with an error:

- an opcode other than QUERY (RFC 1035 §4.1.1): NOTIMP;
- more or less than one question (RFC 9619 §4), a name that is none, a section that is cut short,
  an OPT record twice, outside the additional section or not at the root (RFC 6891 §6.1.1):
  FORMERR;
- a version of EDNS that we do not speak: BADVERS (RFC 6891 §6.1.3).

Ignored: octets behind the last record, and the data of every record but OPT. TSIG (RFC 8945) and
cookies (RFC 7873) protect a path between hosts; this resolver is reached over a device of its own
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dns.codes import RCode, RRType
from dns.names import Labels
from dns.wire import CD, HEADER, QR, RD, WireError, opcode_of, read_question, read_record

MAX_RECORDS = 16
"""Records besides the question. OPT, TKEY (RFC 2930 §4) and TSIG or SIG(0) make three."""
_DO = 0x8000


class Edns(NamedTuple):
    """An OPT record: the octets of UDP payload that the sender takes, and its DO bit."""

    payload: int
    do: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query. `labels` have the case of the query."""

    id: int
    labels: Labels
    qtype: int
    qclass: int
    rd: bool
    cd: bool
    edns: Edns | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A query that can only be answered with `rcode`.

    `question` is the question section as it came, empty if it could not be read.
    """

    id: int
    opcode: int
    rd: bool
    rcode: RCode
    question: bytes = b""


class _BadVersionError(Exception):
    pass


def parse_query(wire: bytes) -> Query | Malformed | None:
    """Return the query in `wire`, None if no answer is due.

    No answer is due to octets shorter than a header, as it could not be matched to them, and to
    answers: two resolvers that answer each other's answers never stop.
    """
    if len(wire) < HEADER.size:
        return None
    ident, flags, questions, *others = HEADER.unpack_from(wire)
    if flags & QR:
        return None
    opcode, rd, cd = opcode_of(flags), bool(flags & RD), bool(flags & CD)
    if opcode:
        return Malformed(ident, opcode, rd, RCode.NOTIMP)
    question = b""
    try:
        if questions != 1:
            raise WireError("not one question")
        labels, qtype, qclass, end = read_question(wire)
        question = wire[HEADER.size : end]
        edns = _read_edns(wire, end, before=others[0] + others[1], additional=others[2])
    except WireError:
        return Malformed(ident, opcode, rd, RCode.FORMERR, question)
    except _BadVersionError:
        return Malformed(ident, opcode, rd, RCode.BADVERS, question)
    return Query(ident, labels, qtype, qclass, rd, cd, edns)


def _read_edns(wire: bytes, offset: int, *, before: int, additional: int) -> Edns | None:
    if before + additional > MAX_RECORDS:
        raise WireError("too many records")
    opt = None
    for index in range(before + additional):
        record, offset = read_record(wire, offset)
        if record.rtype != RRType.OPT:
            continue
        if opt is not None or index < before or not record.is_at_root:
            raise WireError("misplaced OPT")
        opt = record
    if opt is None:
        return None
    if opt.ttl >> 16 & 0xFF:
        raise _BadVersionError
    return Edns(payload=opt.rclass, do=bool(opt.ttl & _DO))
