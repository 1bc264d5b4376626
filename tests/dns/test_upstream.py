"""Asking the far end: an answer of ours from any octets, and the right one from an honest one."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns import response
from dns.codes import ExtendedError, RCode
from dns.message import Query, parse_query
from dns.names import parse_text, to_text, to_wire
from dns.records import Record
from dns.upstream import (
    MAX_ALIASES,
    MAX_ANSWERS,
    MAX_NEGATIVE_S,
    MAX_TTL_S,
    Answer,
    Outcome,
    build_query,
    is_answer,
    read_answer,
    write_answer,
)

Ask = Callable[..., bytes]

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV = 1, 2, 5, 6, 12, 15, 16, 28, 33
QUESTION = build_query(7, "app.example", A)[12:]


def record(rtype: int, data: bytes, owner: bytes = b"\xc0\x0c", rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, 60, len(data)) + data


def reply(
    *records: bytes, flags: int = 0x8180, question: bytes = QUESTION, ident: int = 7
) -> bytes:
    return struct.pack("!6H", ident, flags, 1, len(records), 0, 0) + question + b"".join(records)


def outcome(wire: bytes) -> Outcome:
    return read_answer(wire, 7, "app.example", A).outcome


def test_question_asked_as_any_resolver_asks(ask: Ask) -> None:
    assert build_query(7, "app.example", AAAA) == ask("app.example", AAAA, ident=7)


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a\\", "a\\999", "a" * 64, "a." * 127 + "a"])
def test_question_about_no_name_refused(name: str) -> None:
    with pytest.raises(ValueError):
        build_query(7, name, A)


@pytest.mark.parametrize(
    ("rcode", "is_one"), [(0, False), (1, True), (2, True), (3, False), (4, True), (5, True)]
)
def test_error_without_question_is_an_answer_of_a_server_that_does_not_serve_it(
    rcode: int, is_one: bool
) -> None:
    query = build_query(7, "app.example", A)
    assert is_answer(struct.pack("!6H", 7, 0x8180 | rcode, 0, 0, 0, 0), query) == is_one
    assert not is_answer(struct.pack("!6H", 8, 0x8180 | rcode, 0, 0, 0, 0), query)
    assert not is_answer(struct.pack("!6H", 7, 0x8180 | rcode, 2, 0, 0, 0) + QUESTION, query)


def test_answer_with_record_is_found() -> None:
    assert outcome(reply(record(A, b"abcd"))) is Outcome.FOUND


def test_answer_behind_cnames_is_found() -> None:
    chain = [record(CNAME, b"\x01b\xc0\x10"), record(CNAME, b"\x01c\xc0\x10", b"\x01b\xc0\x10")]
    assert outcome(reply(*chain, record(A, b"abcd", b"\x01c\xc0\x10"))) is Outcome.FOUND


def test_answer_with_cname_alone_is_no_data() -> None:
    assert outcome(reply(record(CNAME, b"\x01b\xc0\x10"))) is Outcome.NO_DATA


def test_answer_with_other_type_is_no_data() -> None:
    assert outcome(reply(record(AAAA, bytes(16)))) is Outcome.NO_DATA
    assert outcome(reply(record(A, b"abcd", rclass=3))) is Outcome.NO_DATA


def test_empty_answer_is_no_data() -> None:
    assert outcome(reply()) is Outcome.NO_DATA


@pytest.mark.parametrize(
    ("rcode", "expected"),
    [
        (1, Outcome.FAILED),
        (2, Outcome.FAILED),
        (3, Outcome.NX_DOMAIN),
        (4, Outcome.UNSUPPORTED),
        (5, Outcome.REFUSED),
        (15, Outcome.FAILED),
    ],
)
def test_answer_with_rcode_told(rcode: int, expected: Outcome) -> None:
    assert outcome(reply(flags=0x8180 | rcode)) is expected


def test_answer_in_another_case_accepted() -> None:
    assert outcome(reply(question=QUESTION.replace(b"app", b"aPp"))) is Outcome.NO_DATA


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(reply(ident=8), id="another id"),
        pytest.param(reply(flags=0x0100), id="a query"),
        pytest.param(reply(flags=0x8380), id="truncated"),
        pytest.param(reply(flags=0xA180), id="another opcode"),
        pytest.param(reply(question=QUESTION.replace(b"app", b"apq")), id="another name"),
        pytest.param(reply(question=QUESTION[:-3] + b"\x1c\0\x01"), id="another type"),
        pytest.param(reply(question=QUESTION[:-1] + b"\x03"), id="another class"),
        pytest.param(reply(question=b"\xc0\x0c" + QUESTION[-4:]), id="pointer in the question"),
        pytest.param(reply(question=b""), id="no question"),
        pytest.param(reply(record(A, b"abcd"))[:-1], id="record cut short"),
        pytest.param(reply(record(CNAME, b"", b"\x40")), id="label type 0x40"),
        pytest.param(reply(record(CNAME, b""), b""), id="fewer records than announced"),
    ],
)
def test_octets_that_answer_another_question_are_failed(wire: bytes) -> None:
    assert outcome(wire) is Outcome.FAILED


def test_record_with_pointer_that_leads_nowhere_is_failed() -> None:
    itself = struct.pack("!H", 0xC000 | 12 + len(QUESTION))
    assert outcome(reply(record(A, b"abcd", itself))) is Outcome.FAILED
    assert outcome(reply(record(A, b"abcd", b"\xff\xff"))) is Outcome.FAILED


def test_answer_with_more_records_than_any_chain_is_failed() -> None:
    other = record(CNAME, b"\0", b"\0")
    assert outcome(reply(*[other] * MAX_ANSWERS)) is Outcome.NO_DATA
    assert outcome(reply(*[other] * (MAX_ANSWERS + 1))) is Outcome.FAILED
    assert outcome(reply(*[other] * MAX_ANSWERS, record(A, b"abcd"))) is Outcome.FAILED


def test_answer_with_as_many_records_as_fit_is_found() -> None:
    assert outcome(reply(*[record(A, b"abcd")] * 4000)) is Outcome.FOUND


@given(st.binary(max_size=300))
def test_any_octets_give_an_outcome(wire: bytes) -> None:
    assert isinstance(outcome(wire), Outcome)


@given(st.binary(max_size=200), st.integers(0, 4))
def test_any_records_give_an_outcome(octets: bytes, count: int) -> None:
    wire = struct.pack("!6H", 7, 0x8180, 1, count, 0, 0) + QUESTION + octets
    assert isinstance(outcome(wire), Outcome)


BUILDERS: list[tuple[Callable[[Query], bytes], Outcome]] = [
    (
        lambda query: response.addresses(query, [ip_address("192.0.2.1")], over_tcp=True, ttl_s=60),
        Outcome.FOUND,
    ),
    (
        lambda query: response.addresses(
            query, [ip_address("2001:db8::1")], over_tcp=True, ttl_s=60
        ),
        Outcome.NO_DATA,
    ),
    (response.nx_domain, Outcome.NX_DOMAIN),
    (
        lambda query: response.error(query, RCode.REFUSED, ExtendedError.BLOCKED, "rule"),
        Outcome.REFUSED,
    ),
    (
        lambda query: response.error(query, RCode.SERVFAIL, ExtendedError.OTHER, "no"),
        Outcome.FAILED,
    ),
]


@pytest.mark.parametrize(("build", "expected"), BUILDERS)
def test_far_end_of_our_own_answers_and_is_understood(
    build: Callable[[Query], bytes], expected: Outcome
) -> None:
    query = parse_query(build_query(7, "app.example", A))
    assert isinstance(query, Query)
    assert outcome(build(query)) is expected


# What an answer is made of


APP = to_wire((b"app", b"example"))
SOA_DATA = b"\x02ns\xc0\x10\0" + struct.pack("!5I", 1, 2, 3, 4, 20)
EXAMPLE = b"\xc0\x10"


def heard(*answers: bytes, authority: bytes = b"", rcode: int = 0, rtype: int = MX) -> Answer:
    """What is read from an answer to a question for another type."""
    question = build_query(7, "app.example", rtype)[12:]
    counts = len(answers), bool(authority), 0
    wire = struct.pack("!6H", 7, 0x8180 | rcode, 1, *counts)
    return read_answer(wire + question + b"".join(answers) + authority, 7, "app.example", rtype)


def alias(number: int, owner: bytes = b"\xc0\x0c") -> bytes:
    return record(CNAME, b"\x02a%d" % number + EXAMPLE, owner)


def test_names_in_data_stand_on_their_own() -> None:
    (mx,) = heard(record(MX, b"\0\x0a\x02mx" + EXAMPLE)).records
    assert mx == Record(APP, MX, 1, 60, b"\0\x0a" + to_wire((b"mx", b"example")))


@pytest.mark.parametrize(
    ("rtype", "data", "whole"),
    [
        (NS, b"\x02ns" + EXAMPLE, b"\x02ns\x07example\0"),
        (PTR, EXAMPLE, b"\x07example\0"),
        (SRV, b"\0\1\0\2\0\3\xc0\x0c", b"\0\1\0\2\0\3\x03app\x07example\0"),
        (17, EXAMPLE + b"\0", b"\x07example\0\0"),
        (35, b"\0\1\0\2\1u\0\0" + EXAMPLE, b"\0\1\0\2\1u\0\0\x07example\0"),
        (TXT, b"\xc0\x0c", b"\xc0\x0c"),
        (257, b"\0\5issue\xc0\x10", b"\0\5issue\xc0\x10"),
        (65280, b"", b""),
    ],
)
def test_data_is_rebuilt_where_it_may_be_compressed(rtype: int, data: bytes, whole: bytes) -> None:
    (found,) = heard(record(rtype, data), rtype=rtype).records
    assert found.data == whole


@pytest.mark.parametrize(
    ("rtype", "data"),
    [(MX, b""), (MX, b"\0\1\0\0"), (NS, b"\x02n"), (SRV, b"\0" * 6), (35, b"\0\1\0\2\xff")],
)
def test_data_of_another_shape_is_no_answer(rtype: int, data: bytes) -> None:
    assert heard(record(rtype, data), rtype=rtype).outcome is Outcome.FAILED


def test_aliases_are_kept_in_their_order_and_nothing_else_is() -> None:
    got = heard(
        record(A, b"abcd"),
        record(46, b"signature"),
        record(MX, b"\0\1\0", b"\x02a2" + EXAMPLE),
        record(MX, b"\0\2\0", b"\x03bad" + EXAMPLE),
        alias(2, b"\x02a1" + EXAMPLE),
        alias(1),
        record(TXT, b"\0", b"\x02a2" + EXAMPLE),
    )
    assert got.outcome is Outcome.FOUND
    assert [one.rtype for one in got.records] == [CNAME, CNAME, MX]
    assert [one.data for one in got.records][-1] == b"\0\1\0"


def test_additional_records_are_gone() -> None:
    question = build_query(7, "app.example", MX)[12:]
    wire = struct.pack("!6H", 7, 0x8180, 1, 1, 0, 1) + question
    wire += record(MX, b"\0\1\xc0\x0c") + record(A, b"abcd")
    assert [one.rtype for one in read_answer(wire, 7, "app.example", MX).records] == [MX]


def test_alias_asked_for_as_such_is_not_followed() -> None:
    got = heard(alias(1), alias(2, b"\x02a1" + EXAMPLE), rtype=CNAME)
    assert len(got.records) == 1


def test_aliases_in_a_circle_lead_nowhere() -> None:
    back = record(CNAME, b"\xc0\x0c", b"\x02a1" + EXAMPLE)
    assert heard(alias(1), back).outcome is Outcome.NO_DATA


def test_many_records_of_one_owner_are_found() -> None:
    records = [record(MX, b"\0\1\x01m\x01x\x01a" + EXAMPLE)] * MAX_ANSWERS
    assert len(heard(*records).records) == MAX_ANSWERS


def test_more_aliases_than_anybody_has_are_no_answer() -> None:
    names = [b"\x01" + bytes((97 + n,)) + EXAMPLE for n in range(MAX_ALIASES + 2)]
    links = [
        record(CNAME, names[n], names[n - 1] if n else b"\xc0\x0c") for n in range(MAX_ALIASES + 1)
    ]
    assert heard(*links[:MAX_ALIASES]).outcome is Outcome.NO_DATA
    assert heard(*links).outcome is Outcome.FAILED


def test_nothing_found_keeps_the_soa_of_its_zone_alone() -> None:
    inside, outside = record(SOA, SOA_DATA, EXAMPLE), record(SOA, SOA_DATA, b"\x03foo\0")
    for rcode, expected in ((0, Outcome.NO_DATA), (3, Outcome.NX_DOMAIN)):
        got = heard(authority=inside, rcode=rcode)
        assert (got.outcome, got.ttl_s) == (expected, 20)
        assert got.soa is not None
        assert (got.soa.owner, got.soa.ttl_s) == (b"\x07example\0", 20)
        assert heard(authority=outside, rcode=rcode) == Answer(expected)
        assert heard(rcode=rcode) == Answer(expected)


def test_nothing_found_behind_an_alias_has_the_soa_of_where_it_leads() -> None:
    away = record(CNAME, b"\x01x\x03foo\0")
    got = heard(away, authority=record(SOA, SOA_DATA, b"\x03foo\0"), rcode=3)
    assert (got.outcome, len(got.records), got.ttl_s) == (Outcome.NX_DOMAIN, 1, 20)


def test_time_to_live_is_that_of_the_shortest_and_bounded() -> None:
    short = record(MX, b"\0\1\0")
    long = short[:6] + struct.pack("!I", 86400) + short[10:]
    assert heard(long).ttl_s == MAX_TTL_S
    assert heard(long, short).ttl_s == 60
    endless = short[:6] + struct.pack("!I", 1 << 31) + short[10:]
    assert heard(endless).ttl_s == 0
    patient = SOA_DATA[:-4] + struct.pack("!I", 86400)
    got = heard(authority=record(SOA, patient, EXAMPLE))
    assert got.ttl_s == MAX_NEGATIVE_S


def test_answer_that_ages_lives_shorter() -> None:
    got = heard(record(MX, b"\0\1\0")).aged(50)
    assert (got.ttl_s, got.records[0].ttl_s) == (10, 10)
    got = heard(authority=record(SOA, SOA_DATA, EXAMPLE)).aged(99)
    assert got.soa is not None
    assert (got.ttl_s, got.soa.ttl_s) == (0, 0)


@pytest.mark.parametrize(
    "got",
    [
        heard(record(MX, b"\0\1" + EXAMPLE), record(MX, b"\0\2\xc0\x0c")),
        heard(alias(1), record(MX, b"\0\1\0", b"\x02a1" + EXAMPLE)),
        heard(authority=record(SOA, SOA_DATA, EXAMPLE)),
        heard(alias(1), rcode=3),
    ],
)
def test_answer_written_is_read_again(got: Answer) -> None:
    assert read_answer(write_answer(got, "app.example", MX), 0, "app.example", MX) == got


def test_answer_with_no_room_in_a_message_is_not_written() -> None:
    big = Record(APP, TXT, 1, 1, bytes(40000))
    with pytest.raises(ValueError):
        write_answer(Answer(Outcome.FOUND, 1, (big, big)), "app.example", TXT)


@given(
    st.binary(max_size=400), st.integers(0, 5), st.integers(0, 3), st.sampled_from([MX, SOA, TXT])
)
def test_any_octets_are_read_and_what_was_read_is_written(
    octets: bytes, count: int, authority: int, rtype: int
) -> None:
    question = build_query(7, "app.example", rtype)[12:]
    for rcode in (0, 3):
        head = struct.pack("!6H", 7, 0x8180 | rcode, 1, count, authority, 0)
        got = read_answer(head + question + octets, 7, "app.example", rtype)
        if got.outcome in (Outcome.FOUND, Outcome.NO_DATA, Outcome.NX_DOMAIN):
            written = write_answer(got, "app.example", rtype)
            assert read_answer(written, 0, "app.example", rtype) == got


labels = st.sampled_from([b"\x01a", b"\x02mx", b"\xc0\x0c", EXAMPLE, b"\0", b"\xc0\x1d", b"\x01A"])
owners = st.lists(labels, min_size=1, max_size=4).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from([A, CNAME, MX, SOA]), owners, owners), max_size=6))
def test_any_likely_records_are_read_and_hide_addresses(
    parts: list[tuple[int, bytes, bytes]],
) -> None:
    fixed = {A: b"", CNAME: b"", MX: b"\0\1", SOA: b"\0"}
    built = [
        record(rtype, fixed[rtype] + data + bytes(20) * (rtype == SOA), owner)
        for rtype, owner, data in parts
    ]
    got = heard(*built)
    assert all(one.rtype in (CNAME, MX) for one in got.records)


def worst_names() -> bytes:
    """As many records as are read, each of names with as many labels as possible."""
    data = b"\0\1" + b"\x01a" * 126 + b"\0"
    return b"".join(record(MX, data, b"\x01b" * 126 + b"\0") for _ in range(MAX_ANSWERS))


def worst_pointers() -> bytes:
    """Names that all lead through one long chain."""
    start = 12 + len(QUESTION)
    chain = record(TXT, b"".join(struct.pack("!H", 0xC000 | 12) for _ in range(9000)))
    places = [struct.pack("!H", 0xC000 | start + 14 + 2 * n) for n in range(MAX_ANSWERS - 1)]
    return chain + b"".join(record(MX, b"\0\1" + one, one) for one in places)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(worst_names(), id="many labels"),
        pytest.param(worst_pointers(), id="many pointers"),
        pytest.param(record(SOA, b"\xc0\x0c\xc0\x0c" + bytes(20)) * MAX_ANSWERS, id="SOA"),
        pytest.param(b"\xc0\x0c" * 32000, id="pointers alone"),
        pytest.param(bytes(65000), id="zeros"),
    ],
)
def test_64_kib_are_read_within_5_ms(octets: bytes) -> None:
    question = build_query(7, "app.example", MX)[12:]
    wire = struct.pack("!6H", 7, 0x8180, 1, MAX_ANSWERS, MAX_ANSWERS, 0) + question + octets

    def elapsed_s() -> float:
        start = time.process_time()
        read_answer(wire[:65535], 7, "app.example", MX)
        return time.process_time() - start

    assert min(elapsed_s() for _ in range(10)) < 0.005


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3).map(tuple))
def test_question_about_any_name_is_asked(name: tuple[bytes, ...]) -> None:
    text = to_text(name)
    assert parse_text(text) == name
    assert build_query(7, text, MX)[12:] == to_wire(name) + b"\0\x0f\0\1"
