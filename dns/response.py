"""Responses of the virtual resolver, as octets; the only file that knows dnslib.

dnslib only writes: queries are read by `dns.message`. Names are given to it as tuples of labels,
which it writes octet for octet, so that the question goes back in the case in which it was asked.
It compresses names wrongly behind the first 16 KiB of a message, which only records of the far end
can fill: these are written without it.

Every response has RA, copies RD and CD (RFC 1035 §4.1.1, RFC 4035 §3.2.2) and has neither AA nor
AD: it comes from a resolver, and one that makes addresses up. It has an OPT record if and only if
the query had one (RFC 6891 §6.1.1).

Negative answers have a SOA record, that of the far end if it has sent one, else one of the root
with all timers 1: caches do not agree on what to do without one (RFC 2308 §5), and one second is
the TTL of a virtual answer, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from dnslib import (
    AAAA,
    EDNS0,
    PTR,
    RD,
    RR,
    A,
    DNSHeader,
    DNSLabel,
    DNSQuestion,
    DNSRecord,
    EDNSOption,
)

from dns import wire
from dns.codes import IN, ExtendedError, RCode, RRType
from dns.message import Malformed, Query
from dns.names import Labels, to_wire
from dns.records import Record, write_record
from dns.upstream import Answer, Outcome

VIRTUAL_TTL_S = 1
"""The TTL of virtual and negative answers."""
MAX_UDP = 1232
"""Octets of a response over UDP at most, as every path carries so many in one piece (DNS flag day
2020). It is also the payload that our OPT records announce."""
_MIN_UDP = 512
"""RFC 1035 §4.2.1; a smaller EDNS payload counts as this (RFC 6891 §6.2.3)."""
_MAX_TCP = 65535
_EXTENDED_ERROR = 15
"""The EDNS option of RFC 8914 §2."""
_ROOT = DNSLabel(())
_OPT = struct.Struct("!BHHIH")
"""An OPT record without options (RFC 6891 §6.1.2)."""
_ROOT_SOA = Record(
    b"\0", RRType.SOA, IN, VIRTUAL_TTL_S, b"\0\0" + struct.pack("!5I", *[VIRTUAL_TTL_S] * 5)
)


def addresses(
    query: Query,
    found: Iterable[IPv4Address | IPv6Address],
    *,
    over_tcp: bool,
    ttl_s: int = VIRTUAL_TTL_S,
) -> bytes:
    """Answer with those of the addresses `found` that are of the type of the question.

    NODATA if there are none, as for every type but A and AAAA. If they do not all fit, all are left
    out and TC is set: the client retries over TCP (RFC 2181 §9).
    """
    records = [
        _record(query, query.qtype, ttl_s, rdata)
        for rtype, rdata in map(_address_data, found)
        if rtype == query.qtype
    ]
    if not records:
        return no_data(query)
    whole = _message(query, answers=records)
    if len(whole) <= _limit(query, over_tcp):
        return whole
    return _message(query, flags=wire.TC)


def pointer(query: Query, target: Labels) -> bytes:
    """Answer a PTR query with a name."""
    return _message(
        query, answers=[_record(query, RRType.PTR, VIRTUAL_TTL_S, PTR(DNSLabel(target)))]
    )


def far(query: Query, answer: Answer, *, over_tcp: bool) -> bytes:
    """Answer with a positive or negative answer of the far end, as read by `dns.upstream`.

    If that does not fit, TC is set and no record is in it (RFC 2181 §9).
    """
    rcode = RCode.NXDOMAIN if answer.outcome is Outcome.NX_DOMAIN else RCode.NOERROR
    if answer.outcome is not Outcome.FOUND and answer.soa is None:
        authority = [_ROOT_SOA]
    else:
        authority = [answer.soa] if answer.soa else []
    asked = to_wire(query.labels)
    records = b"".join(write_record(one, asked) for one in (*answer.records, *authority))
    opt = _OPT.pack(0, RRType.OPT, MAX_UDP, query.edns.do << 15, 0) if query.edns else b""
    flags = _flags(query, rcode)
    header = wire.HEADER.pack(query.id, flags, 1, len(answer.records), len(authority), bool(opt))
    question = asked + wire.QUESTION_TAIL.pack(query.qtype, query.qclass)
    if wire.HEADER.size + len(question + records + opt) <= _limit(query, over_tcp):
        return header + question + records + opt
    return wire.HEADER.pack(query.id, flags | wire.TC, 1, 0, 0, bool(opt)) + question + opt


def any_type(query: Query) -> bytes:
    """Answer a query for ANY with one synthetic HINFO record (RFC 8482 §4.2)."""
    hinfo = RD(b"\x07RFC8482\x00")
    return _message(query, answers=[_record(query, RRType.HINFO, VIRTUAL_TTL_S, hinfo)])


def no_data(query: Query) -> bytes:
    """Answer that the name has no record of this type (RFC 2308 §2.2)."""
    return _message(query, authority=[_soa()])


def nx_domain(query: Query) -> bytes:
    """Answer that there is no such name (RFC 2308 §2.1)."""
    return _message(query, RCode.NXDOMAIN, authority=[_soa()])


def error(query: Query, rcode: RCode, why: ExtendedError, text: str) -> bytes:
    """Answer with an error; `text` is a few ASCII words for the user (RFC 8914 §2)."""
    option = EDNSOption(_EXTENDED_ERROR, struct.pack("!H", why) + text.encode("ascii"))
    return _message(query, rcode, options=[option])


def malformed(query: Malformed) -> bytes:
    """Answer a malformed query. The question goes back as it came, if it could be read.

    There is no OPT record but with BADVERS, as the upper bits of a response code are in it
    (RFC 6891 §6.1.3).
    """
    with_opt = query.rcode > 0xF
    flags = wire.QR | query.opcode << 11 | query.rd * wire.RD | wire.RA | query.rcode & 0xF
    header = wire.HEADER.pack(query.id, flags, bool(query.question), 0, 0, with_opt)
    opt = _OPT.pack(0, RRType.OPT, MAX_UDP, query.rcode >> 4 << 24, 0)
    return header + query.question + opt * with_opt


def _message(
    query: Query,
    rcode: RCode = RCode.NOERROR,
    *,
    flags: int = 0,
    answers: Sequence[Any] = (),
    authority: Sequence[Any] = (),
    options: Sequence[Any] = (),
) -> bytes:
    record = DNSRecord(
        DNSHeader(id=query.id, bitmap=_flags(query, rcode) | flags),
        questions=[DNSQuestion(DNSLabel(query.labels), query.qtype, query.qclass)],
        rr=answers,
        auth=authority,
        ar=_opt(query, options),
    )
    return bytes(record.pack())


def _flags(query: Query, rcode: RCode) -> int:
    return wire.QR | query.rd * wire.RD | wire.RA | query.cd * wire.CD | rcode


def _opt(query: Query, options: Sequence[Any]) -> list[Any]:
    if query.edns is None:
        return []
    # RFC 3225 §3: the DO bit goes back as it came.
    return [EDNS0(_ROOT, flags="do" * query.edns.do, udp_len=MAX_UDP, opts=list(options))]


def _record(query: Query, rtype: int, ttl_s: int, rdata: Any) -> Any:
    return RR(DNSLabel(query.labels), rtype, query.qclass, ttl_s, rdata)


def _address_data(address: IPv4Address | IPv6Address) -> tuple[RRType, Any]:
    # As octets: dnslib reads no text form that ends in a dotted quad.
    if address.version == 4:
        return RRType.A, A(tuple(address.packed))
    return RRType.AAAA, AAAA(tuple(address.packed))


def _soa() -> Any:
    return RR(_ROOT, RRType.SOA, ttl=VIRTUAL_TTL_S, rdata=RD(_ROOT_SOA.data))


def _limit(query: Query, over_tcp: bool) -> int:
    if over_tcp:
        return _MAX_TCP
    return min(max(_MIN_UDP, query.edns.payload if query.edns else 0), MAX_UDP)
