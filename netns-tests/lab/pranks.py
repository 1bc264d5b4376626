"""What a resolver does that lies, is broken, or is somebody's who wishes us ill.

The label before `PRANKS` says what becomes of a question; every address that is told is `LIE`.
"""

from __future__ import annotations

import struct
import threading

from dnslib import CNAME, QTYPE, RCODE, RR, TXT, A, DNSQuestion, DNSRecord

PRANKS = "prank.example.com"
LIE = "192.0.2.66"
HUGE = 240
"""Records of 255 octets: nearly 64 KiB."""
RCODES = ("servfail", "refused", "notimp", "formerr")


class Octets:
    """An answer that no library would write."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def pack(self) -> bytes:
        """Return it, as dnslib asks for it."""
        return self._octets


def prank(request: DNSRecord, *, over_tcp: bool) -> DNSRecord | Octets:
    """Return what is answered; with `silent`, never."""
    name, kind = request.q.qname, bytes(request.q.qname.label[-4]).decode()
    reply = request.reply()
    lie = RR(name, QTYPE.A, ttl=300, rdata=A(LIE))
    if kind == "silent":
        threading.Event().wait()
    if kind in RCODES:
        reply.header.rcode = getattr(RCODE, kind.upper())
        reply.add_answer(lie)
    elif kind == "garbage":
        return Octets(struct.pack("!H", request.header.id) + b"\x81\x80" + b"\xc0\x0c" * 200)
    elif kind == "empty":
        return Octets(b"")
    elif kind == "another":
        reply.q = DNSQuestion("www.example.com", request.q.qtype)
        reply.add_answer(lie, RR(name, QTYPE.TXT, rdata=TXT("of another")))
    elif kind == "more":
        text = RR(name, QTYPE.TXT, ttl=300, rdata=TXT("the answer"))
        reply.add_answer(text, lie, RR("www.example.com", QTYPE.TXT, ttl=300, rdata=TXT("a lie")))
        reply.add_auth(lie)
        reply.add_ar(lie, RR("www.example.com", QTYPE.A, ttl=300, rdata=A(LIE)))
    elif kind == "circle":
        round_the_corner = f"two.{kind}.{PRANKS}"
        reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(round_the_corner)))
        reply.add_answer(RR(round_the_corner, QTYPE.CNAME, rdata=CNAME(name)))
    elif kind == "cut" or (kind == "huge" and not over_tcp):
        reply.header.tc = 1
    elif kind == "huge":
        reply.add_answer(*(RR(name, QTYPE.TXT, rdata=TXT(b"%0255d" % n)) for n in range(HUGE)))
    return reply
