"""Records and types as people read and write them, compared with what a library understands."""

from __future__ import annotations

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.presentation import TYPES, show, type_name, type_number
from dns.records import Record
from dns.reply import read_reply


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
    line = f"www.example.com. 60 IN {rtype} {data}"
    reply = dnslib.DNSRecord.question("www.example.com", rtype).reply()
    reply.add_answer(*dnslib.RR.fromZone(line))
    assert list(map(show, read_reply(bytes(reply.pack())).answers)) == [line]


def test_type_that_is_not_known_is_shown_as_octets() -> None:
    record = Record(b"\1a\0", 65280, 1, 5, b"\x0a\0\0\1")
    assert show(record) == "a. 5 IN TYPE65280 \\# 4 0a000001"


@pytest.mark.parametrize("rtype", [1, 6, 15, 16, 28, 33, 257])
@given(data=st.binary(max_size=40))
def test_any_data_is_shown_and_does_nothing_to_a_terminal(rtype: int, data: bytes) -> None:
    line = show(Record(b"\3\x1b]0\0", rtype, 1, 5, data))
    assert line.isprintable()


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
