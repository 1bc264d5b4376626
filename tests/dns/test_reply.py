"""Answers as a stub resolver reads them, compared with what a library has written; and shown."""

from __future__ import annotations

from contextlib import suppress

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.names import parse_text
from dns.records import Record
from dns.reply import TYPES, Reply, read_reply, show, type_name, type_number
from dns.wire import WireError

NAME = "www.example.com"
LABELS = parse_text(NAME)
ZONE = """
www.example.com. 60 IN {} {}
"""


def answered(*records: str, rtype: str = "A", ident: int = 7) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(NAME, rtype)
    question.header.id = ident
    reply = question.reply()
    for text in records:
        reply.add_answer(*dnslib.RR.fromZone(text))
    return reply


def read(reply: dnslib.DNSRecord, rtype: str = "A") -> Reply:
    found = read_reply(bytes(reply.pack()), 7, LABELS, TYPES[rtype])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("rtype", "data"),
    [
        ("A", "192.0.2.1"),
        ("AAAA", "2001:db8::1"),
        ("CNAME", "alias.example.com."),
        ("NS", "ns.example.com."),
        ("PTR", "."),
        ("MX", "10 mail.example.com."),
        ("SRV", "0 5 443 srv.example.com."),
        ("TXT", '"one" "and \\"two\\""'),
        ("SOA", "ns.example.com. host.example.com. 1 2 3 4 5"),
        ("CAA", '0 issue "ca.example.net"'),
    ],
)
def test_record_is_shown_as_it_stands_in_a_zone(rtype: str, data: str) -> None:
    found = read(answered(ZONE.format(rtype, data), rtype=rtype), rtype)
    assert [show(record) for record in found.answers] == [f"{NAME}. 60 IN {rtype} {data}"]


def test_type_that_is_not_known_is_shown_as_octets() -> None:
    record = Record(b"\1a\0", 65280, 1, 5, b"\x0a\0\0\1")
    assert show(record) == "a. 5 IN TYPE65280 \\# 4 0a000001"


@pytest.mark.parametrize("rtype", [1, 6, 15, 16, 28, 33, 257])
@given(data=st.binary(max_size=40))
def test_any_data_is_shown_and_does_nothing_to_a_terminal(rtype: int, data: bytes) -> None:
    line = show(Record(b"\3\x1b]0\0", rtype, 1, 5, data))
    assert line.isprintable()


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


def test_answer_to_another_question_is_not_ours() -> None:
    for other in (answered(ident=8), answered(rtype="MX")):
        assert read_reply(bytes(other.pack()), 7, LABELS, TYPES["A"]) is None


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_octets_are_an_answer_or_not(junk: bytes, cut: int) -> None:
    wire = bytes(answered(ZONE.format("MX", "10 mail.example.com."), rtype="MX").pack())
    for octets in (junk, wire[:cut] + junk, wire[:cut]):
        with suppress(WireError):
            read_reply(octets, 7, LABELS, TYPES["MX"])


@pytest.mark.parametrize(
    "text", ["", "X", "TYPE", "TYPE0", "TYPE65536", "TYPE-1", "TYPE\uff11", "é"]
)
def test_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        type_number(text)


def test_types_have_names_and_numbers() -> None:
    for name, number in TYPES.items():
        assert (type_number(name.lower()), type_name(number)) == (number, name)
    assert (type_number("type65280"), type_name(65280)) == (65280, "TYPE65280")
