"""Answers as the asker sees them, read by a reader that shares no code with their builder."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns import response
from dns.codes import ExtendedError, RCode
from dns.message import Malformed, Query, parse_query

Ask = Callable[..., bytes]
Read = Callable[[bytes], Any]

V4, V6 = IPv4Address("198.18.0.16"), IPv6Address("fd00::10")
MANY = [IPv4Address(index) for index in range(100)]


def query_of(wire: bytes) -> Query:
    query = parse_query(wire)
    assert isinstance(query, Query)
    return query


BUILDERS: dict[str, Callable[[Query], bytes]] = {
    "addresses": lambda query: response.addresses(query, [V4, V6], over_tcp=False),
    "truncated": lambda query: response.addresses(query, MANY, over_tcp=False),
    "pointer": lambda query: response.pointer(query, (b"app", b"example")),
    "any": response.any_type,
    "no data": response.no_data,
    "no name": response.nx_domain,
    "error": lambda query: response.error(query, RCode.SERVFAIL, ExtendedError.OTHER, "words"),
}
each_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


@each_builder
def test_query_with_odd_case_and_octets_echoed(
    ask: Ask, read: Read, build: Callable[[Query], bytes]
) -> None:
    asked = ask((b"wWw", b"a.b\\", b"\0\xff \x7f", b"ExAmPlE"), 1)
    got = read(build(query_of(asked)))
    assert (got.id, got.question) == (0x1234, asked[12:])


@each_builder
def test_query_with_longest_name_answered_within_512(
    ask: Ask, read: Read, build: Callable[[Query], bytes]
) -> None:
    asked = ask((b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61), 1, payload=100)
    wire = build(query_of(asked))
    assert len(wire) <= 512
    assert read(wire).question == asked[12:-11]


@each_builder
@pytest.mark.parametrize(("asked", "answered"), [(0, 0x8080), (0x0100, 0x8180), (0x0010, 0x8090)])
def test_query_flags_copied(
    ask: Ask, read: Read, build: Callable[[Query], bytes], asked: int, answered: int
) -> None:
    assert read(build(query_of(ask(flags=asked)))).flags & ~0x020F == answered


@each_builder
def test_query_without_edns_answered_without(
    ask: Ask, read: Read, build: Callable[[Query], bytes]
) -> None:
    assert read(build(query_of(ask()))).payload is None


@each_builder
@pytest.mark.parametrize("do", [False, True])
def test_query_with_edns_answered_with(
    ask: Ask, read: Read, build: Callable[[Query], bytes], do: bool
) -> None:
    got = read(build(query_of(ask(payload=4096, do=do))))
    assert (got.payload, got.do) == (response.MAX_UDP, do)


def test_addresses_of_the_type_asked_for_given(ask: Ask, read: Read) -> None:
    for qtype, expected in ((1, V4), (28, V6)):
        got = read(
            response.addresses(query_of(ask("a.B", qtype)), [V4, V6], over_tcp=False, ttl_s=77)
        )
        assert got.addresses == [expected]
        assert [(r.owner, r.rtype, r.ttl) for r in got.answers] == [((b"a", b"B"), qtype, 77)]


def test_addresses_of_the_other_type_are_no_data(ask: Ask, read: Read) -> None:
    got = read(response.addresses(query_of(ask(qtype=28)), [V4], over_tcp=False))
    assert (got.rcode, got.answers, len(got.authority)) == (RCode.NOERROR, [], 1)


@given(st.ip_addresses())
def test_any_address_given_as_it_is(
    ask: Ask, read: Read, address: IPv4Address | IPv6Address
) -> None:
    qtype = 1 if address.version == 4 else 28
    got = read(response.addresses(query_of(ask(qtype=qtype)), [address], over_tcp=True))
    assert got.addresses == [address]


@pytest.mark.parametrize(
    ("payload", "fitting"), [(None, 30), (0, 29), (512, 29), (1232, 74), (65535, 74)]
)
def test_addresses_over_udp_whole_or_truncated(
    ask: Ask, read: Read, payload: int | None, fitting: int
) -> None:
    query = query_of(ask("app.example", payload=payload))
    whole = read(response.addresses(query, MANY[:fitting], over_tcp=False))
    assert (len(whole.answers), whole.is_truncated) == (fitting, False)
    cut = read(response.addresses(query, MANY[: fitting + 1], over_tcp=False))
    assert (len(cut.answers), cut.is_truncated) == (0, True)


def test_addresses_over_tcp_whole(ask: Ask, read: Read) -> None:
    found = [IPv4Address(index) for index in range(4000)]
    got = read(response.addresses(query_of(ask()), found, over_tcp=True))
    assert (got.addresses, got.is_truncated) == (found, False)


def test_addresses_over_tcp_beyond_a_message_truncated(ask: Ask, read: Read) -> None:
    found = [IPv4Address(index) for index in range(5000)]
    got = read(response.addresses(query_of(ask()), found, over_tcp=True))
    assert (got.answers, got.is_truncated) == ([], True)


def test_pointer_given_to_the_name(ask: Ask, read: Read) -> None:
    query = query_of(ask(V4.reverse_pointer, 12))
    (record,) = read(response.pointer(query, (b"app", b"example"))).answers
    assert (record.rtype, record.ttl, record.name) == (12, 1, (b"app", b"example"))


def test_pointer_below_the_question_compressed_correctly(ask: Ask, read: Read) -> None:
    query = query_of(ask("1.in-addr.arpa", 12))
    (record,) = read(response.pointer(query, (b"x", b"in-addr", b"arpa"))).answers
    assert record.name == (b"x", b"in-addr", b"arpa")


def test_any_answered_with_hinfo_alone(ask: Ask, read: Read) -> None:
    (record,) = read(response.any_type(query_of(ask(qtype=255)))).answers
    assert (record.rtype, record.data) == (13, b"\x07RFC8482\0")


@pytest.mark.parametrize(
    ("build", "rcode"), [(response.no_data, RCode.NOERROR), (response.nx_domain, RCode.NXDOMAIN)]
)
def test_negative_answer_may_be_kept_for_one_second(
    ask: Ask, read: Read, build: Callable[[Query], bytes], rcode: RCode
) -> None:
    got = read(build(query_of(ask())))
    (soa,) = got.authority
    assert (got.rcode, got.answers) == (rcode, [])
    assert (soa.owner, soa.rtype, soa.ttl) == ((), 6, 1)
    assert soa.data[-4:] == b"\0\0\0\1"  # MINIMUM, RFC 2308 §4


def test_error_explained_where_the_asker_speaks_edns(ask: Ask, read: Read) -> None:
    def build(wire: bytes) -> Any:
        why = ExtendedError.NOT_SUPPORTED
        return read(response.error(query_of(wire), RCode.NOTIMP, why, "words"))

    assert (build(ask()).rcode, build(ask()).options) == (RCode.NOTIMP, {})
    assert build(ask(payload=512)).options == {15: b"\0\x15words"}


def test_malformed_without_question_answered_by_a_header(read: Read) -> None:
    wire = response.malformed(Malformed(5, opcode=4, rd=True, rcode=RCode.NOTIMP))
    got = read(wire)
    assert len(wire) == 12
    assert (got.id, got.flags, got.rcode) == (5, 0x8000 | 4 << 11 | 0x0180 | 4, RCode.NOTIMP)


def test_malformed_with_question_answered_with_it(ask: Ask, read: Read) -> None:
    question = ask("wWw.example")[12:]
    got = read(response.malformed(Malformed(5, 0, False, RCode.FORMERR, question)))
    assert (got.rcode, got.question, got.payload) == (RCode.FORMERR, question, None)


def test_bad_version_answered_in_version_0(ask: Ask, read: Read) -> None:
    malformed = parse_query(ask(payload=1232, version=1))
    assert isinstance(malformed, Malformed)
    got = read(response.malformed(malformed))
    assert (got.rcode, got.payload, got.question) == (RCode.BADVERS, 1232, ask()[12:])


def test_answer_read_alike_by_another_library(ask: Ask) -> None:
    layers = pytest.importorskip("scapy.layers.dns")
    wire = response.addresses(query_of(ask("app.example", payload=1232)), MANY[:3], over_tcp=False)
    got = layers.DNS(wire)
    assert got.qd[0].qname == b"app.example."
    assert [ip_address(record.rdata) for record in got.an] == MANY[:3]
    assert got.ar[0].rclass == response.MAX_UDP
