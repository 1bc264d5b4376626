"""Answers as a stub resolver reads them, compared with what a library has written."""

from __future__ import annotations

from contextlib import suppress

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from dns.names import parse_text
from dns.reply import Reply, read_reply
from dns.wire import WireError

NAME = "www.example.com"
LABELS = parse_text(NAME)


def answered(*records: str, rtype: str = "A", ident: int = 7) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(NAME, rtype)
    question.header.id = ident
    reply = question.reply()
    for text in records:
        reply.add_answer(*dnslib.RR.fromZone(text))
    return reply


def read(reply: dnslib.DNSRecord) -> Reply:
    return read_reply(bytes(reply.pack()))


def test_extended_error_and_upper_bits_of_the_code_are_read() -> None:
    reply = answered()
    reply.header.rcode = 2
    option = dnslib.EDNSOption(15, b"\0\x17far \x1b away")
    reply.add_ar(dnslib.EDNS0(ext_rcode=1, opts=[option]))
    found = read(reply)
    assert (found.rcode, found.rcode_name, found.why) == (18, "RCODE18", "far ? away")


def test_names_of_codes_are_those_of_the_dns() -> None:
    reply = answered()
    reply.header.rcode = 3
    assert read(reply).rcode_name == "NXDOMAIN"


def test_answer_of_a_server_that_could_not_read_the_query_has_no_question() -> None:
    found = read_reply(b"\0\7\x81\x81" + bytes(8))
    assert (found.rcode_name, found.answers) == ("FORMERR", ())


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_octets_behind_the_header_are_an_answer_or_not(junk: bytes, cut: int) -> None:
    wire = bytes(answered("www.example.com. 60 IN MX 10 mail.example.com.", rtype="MX").pack())
    header, rest = wire[:12], wire[12:]
    for octets in (junk, rest[:cut] + junk, rest[:cut]):
        with suppress(WireError):
            read_reply(header + octets)
