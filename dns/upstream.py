"""A query to a resolver of the far end, and as much of its answer as this resolver needs.

Theory of operation
-------------------
Octets of the far end, or of a host behind it, become an `Answer` or none. Whatever does not belong
to the answer to this question is left out, and the rest is written again (`write_answer`), so that
no octet of theirs goes further unread.

Kept are, of class IN: the aliases that lead from the name of the question (CNAME, in their order,
at most `MAX_ALIASES`), the records of its type at the last name of these, and, if there are none,
the SOA record of a zone that this name is in. So additional records are gone, as an application
could use the addresses in them past the pool; signatures are, too, because they are not asked for.

An answer may be cached for the TTL of its records, but `MAX_TTL_S` at most. A negative one may be
for that of its SOA record (RFC 2308 §5), but `MAX_NEGATIVE_S` at most, and not without that record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from dns.codes import IN, RCode, RRType
from dns.names import Labels, fold, parse_text, to_wire
from dns.records import Reader, Record, write_record
from dns.wire import HEADER, QR, QUESTION_TAIL, RA, RD, TC, WireError, opcode_of, read_question

MAX_ANSWERS: Final = 256
"""Records read of the answer section: more than any aliases and set of records have."""
MAX_AUTHORITY: Final = 32
"""Records read of the authority section, in search of a SOA record."""
MAX_ALIASES: Final = 16
MAX_TTL_S: Final = 300
MAX_NEGATIVE_S: Final = 30

_MAX_MESSAGE: Final = 65535
_SOA_MINIMUM: Final = 4
"""Octets at the end of the data of a SOA record (RFC 1035 §3.3.13)."""
_ADDRESSES: Final = (RRType.A, RRType.AAAA)
_OPT: Final = struct.Struct("!BHHIH")
"""A record at the root without data: name, type, class, time to live, length."""


class Outcome(Enum):
    """The result of a question to the far end."""

    FOUND = auto()
    """There are records of the type, perhaps behind CNAME records."""
    NO_DATA = auto()
    """The name exists, but has no record of the type."""
    NX_DOMAIN = auto()
    """There is no such name."""
    REFUSED = auto()
    """A policy of the far end forbids the answer."""
    UNSUPPORTED = auto()
    """The far end has no resolver that could be asked for this type."""
    FAILED = auto()
    """No answer in time, an error such as SERVFAIL, or octets that answer another question."""
    UNREACHABLE = auto()
    """The far end could not be asked."""


_ERRORS: frozenset[int] = frozenset({RCode.FORMERR, RCode.SERVFAIL, RCode.NOTIMP, RCode.REFUSED})
_BY_RCODE: dict[int, Outcome] = {
    RCode.NOERROR: Outcome.NO_DATA,
    RCode.NXDOMAIN: Outcome.NX_DOMAIN,
    RCode.NOTIMP: Outcome.UNSUPPORTED,
    RCode.REFUSED: Outcome.REFUSED,
}
_TO_RCODE: dict[Outcome, RCode] = {
    Outcome.FOUND: RCode.NOERROR,
    Outcome.NO_DATA: RCode.NOERROR,
    Outcome.NX_DOMAIN: RCode.NXDOMAIN,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. It may be cached for `ttl_s`; 0 means not at all.

    `records` are aliases first, then records of the type of the question. `soa` is the record of a
    negative answer, if the far end has sent one.
    """

    outcome: Outcome
    ttl_s: int = 0
    records: tuple[Record, ...] = ()
    soa: Record | None = None

    def aged(self, age_s: int) -> Answer:
        """Return the answer as it is `age_s` later."""
        return Answer(
            self.outcome,
            max(0, self.ttl_s - age_s),
            tuple(_aged(record, age_s) for record in self.records),
            self.soa and _aged(self.soa, age_s),
        )


FAILED: Final = Answer(Outcome.FAILED)


def build_query(ident: int, name: str, rtype: int, payload: int = 0) -> bytes:
    """Return a recursive query of class IN. Raises ValueError where `name` is none.

    With `payload` it has an OPT record (RFC 6891 §6.1.2): so many octets of an answer over UDP are
    taken, and EDNS can be answered.
    """
    question = to_wire(parse_text(name)) + QUESTION_TAIL.pack(rtype, IN)
    opt = _OPT.pack(0, RRType.OPT, payload, 0, 0) if payload else b""
    return HEADER.pack(ident, RD, 1, 0, 0, bool(payload)) + question + opt


def is_answer(message: bytes, query: bytes) -> bool:
    """Say whether octets are a response, whole or not, to a query (RFC 5452 §9.1).

    The identifier, the kind of query and the question are those of the query, but for the case of
    letters. A server that does not serve the query may say so in a header alone (RFC 1035 §4.1.1).
    Total on any octets of `message`; raises WireError if `query` has no question.
    """
    asked = _question(query)
    ident, sent, *_ = HEADER.unpack_from(query)
    if len(message) < HEADER.size:
        return False
    got, flags, questions, *_ = HEADER.unpack_from(message)
    if got != ident or not flags & QR or opcode_of(flags) != opcode_of(sent):
        return False
    if questions != 1:
        return not questions and flags & 0xF in _ERRORS
    try:
        return _question(message) == asked
    except WireError:
        return False


def read_answer(wire: bytes, ident: int, name: str, rtype: int) -> Answer:
    """Return what `wire` says in answer to `build_query(ident, name, rtype)`.

    Total on any octets: anything but such an answer is FAILED. So is a truncated one, as the stream
    has room for a whole one. Raises ValueError if `name` is none.
    """
    if not is_answer(wire, build_query(ident, name, rtype)):
        return FAILED
    _, flags, _, count, authority, _ = HEADER.unpack_from(wire)
    outcome = _BY_RCODE.get(flags & 0xF, Outcome.FAILED)
    if flags & TC or outcome in (Outcome.FAILED, Outcome.REFUSED, Outcome.UNSUPPORTED):
        return FAILED if flags & TC else Answer(outcome)
    try:
        name_asked = to_wire(fold(parse_text(name)))
        return _read(wire, count, authority, name_asked, rtype, outcome)
    except WireError:
        return FAILED


def write_answer(answer: Answer, name: str, rtype: int) -> bytes:
    """Return an answer that is FOUND, NO_DATA or NX_DOMAIN as a message with the identifier 0.

    `read_answer` reads the same from it. Raises ValueError if it does not fit into a message.
    """
    flags = QR | RD | RA | _TO_RCODE[answer.outcome]
    authority = [answer.soa] if answer.soa else []
    message = HEADER.pack(0, flags, 1, len(answer.records), len(authority), 0)
    asked = to_wire(parse_text(name))
    message += asked + QUESTION_TAIL.pack(rtype, IN)
    message += b"".join(write_record(one, asked) for one in (*answer.records, *authority))
    if len(message) > _MAX_MESSAGE:
        raise ValueError("an answer of more than 65535 octets")
    return message


def _question(wire: bytes) -> tuple[Labels, int, int]:
    labels, qtype, qclass, _ = read_question(wire)
    return fold(labels), qtype, qclass


def _read(
    wire: bytes, count: int, authority: int, name: bytes, rtype: int, outcome: Outcome
) -> Answer:
    reader, offset = Reader(wire), read_question(wire)[3]
    section, offset = reader.read(offset, min(count, MAX_ANSWERS), (rtype, RRType.CNAME), MAX_TTL_S)
    aliases, last = _follow(section, name, rtype)
    found = [one for one in section if one.rtype == rtype and one.owner.lower() == last]
    if found and outcome is Outcome.NO_DATA and (count <= MAX_ANSWERS or rtype in _ADDRESSES):
        records = (*aliases, *found)
        return Answer(Outcome.FOUND, min(one.ttl_s for one in records), records)
    if found or count > MAX_ANSWERS:
        return FAILED
    section, _ = reader.read(offset, min(authority, MAX_AUTHORITY), (RRType.SOA,), MAX_NEGATIVE_S)
    soa = next((_bounded(one) for one in section if _is_in(last, one.owner)), None)
    ttl_s = min(one.ttl_s for one in (*aliases, soa)) if soa else 0
    return Answer(outcome, ttl_s, tuple(aliases), soa)


def _follow(section: list[Record], name: bytes, rtype: int) -> tuple[list[Record], bytes]:
    """Return the aliases that lead from a name, and the name that the last one leads to."""
    aliases: list[Record] = []
    if rtype == RRType.CNAME:
        return aliases, name
    by_owner = {one.owner.lower(): one for one in section if one.rtype == RRType.CNAME}
    while name in by_owner:
        if len(aliases) == MAX_ALIASES:
            raise WireError("too many aliases")
        aliases.append(by_owner.pop(name))
        name = aliases[-1].data.lower()
    return aliases, name


def _is_in(name: bytes, zone: bytes) -> bool:
    """Say whether a folded name is that of a zone or below it."""
    zone = zone.lower()
    while len(name) > len(zone):
        name = name[1 + name[0] :]
    return name == zone


def _bounded(soa: Record) -> Record:
    """Return a SOA record with the TTL of negative answers (RFC 2308 §5)."""
    minimum_s = int.from_bytes(soa.data[-_SOA_MINIMUM:])
    return soa._replace(ttl_s=min(soa.ttl_s, minimum_s))


def _aged(record: Record, age_s: int) -> Record:
    return record._replace(ttl_s=max(0, record.ttl_s - age_s))
