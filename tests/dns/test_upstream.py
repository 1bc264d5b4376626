"""Asking the far end: one word from any octets, and the right one from an honest answer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns import answer
from dns.codes import ExtendedError, RCode
from dns.message import Query, parse_query
from dns.upstream import MAX_ANSWERS, Outcome, build_query, read_data, read_outcome

Ask = Callable[..., bytes]

A, AAAA, CNAME = 1, 28, 5
QUESTION = build_query(7, "app.example", A)[12:]


def record(rtype: int, data: bytes, owner: bytes = b"\xc0\x0c", rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, 60, len(data)) + data


def reply(
    *records: bytes, flags: int = 0x8180, question: bytes = QUESTION, ident: int = 7
) -> bytes:
    return struct.pack("!6H", ident, flags, 1, len(records), 0, 0) + question + b"".join(records)


def outcome(wire: bytes) -> Outcome:
    return read_outcome(wire, 7, "app.example", A)


def test_question_asked_as_any_resolver_asks(ask: Ask) -> None:
    assert build_query(7, "app.example", AAAA) == ask("app.example", AAAA, ident=7)


@pytest.mark.parametrize("name", ["", "a b", "10.0.0.1", "a" * 64])
def test_question_about_no_host_name_refused(name: str) -> None:
    with pytest.raises(ValueError):
        build_query(7, name, A)


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
        (4, Outcome.FAILED),
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


def test_record_behind_pointer_cycle_read() -> None:
    """Owners are skipped and never followed, so that a cycle costs nothing."""
    looped = struct.pack("!H", 0xC000 | 12 + len(QUESTION))
    assert outcome(reply(record(A, b"abcd", looped))) is Outcome.FOUND


def test_answer_with_more_records_than_any_chain_is_failed() -> None:
    other = record(CNAME, b"")
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
        lambda query: answer.addresses(query, [ip_address("192.0.2.1")], over_tcp=True, ttl_s=60),
        Outcome.FOUND,
    ),
    (
        lambda query: answer.addresses(query, [ip_address("2001:db8::1")], over_tcp=True, ttl_s=60),
        Outcome.NO_DATA,
    ),
    (answer.nx_domain, Outcome.NX_DOMAIN),
    (
        lambda query: answer.error(query, RCode.REFUSED, ExtendedError.BLOCKED, "rule"),
        Outcome.REFUSED,
    ),
    (
        lambda query: answer.error(query, RCode.SERVFAIL, ExtendedError.OTHER, "no"),
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


def test_data_of_the_records_that_were_asked_for() -> None:
    wire = reply(record(CNAME, b"\x01b\xc0\x10"), record(A, b"abcd"), record(A, b"efgh"))
    assert read_data(wire, 7, "app.example", A) == [b"abcd", b"efgh"]
    assert read_data(wire, 8, "app.example", A) == []
    assert read_data(wire, 7, "other.example", A) == []
    assert read_data(wire[:-1], 7, "app.example", A) == []


@given(st.binary(max_size=200))
def test_data_of_any_octets_is_a_list(octets: bytes) -> None:
    head = reply(record(A, b"abcd"))
    for wire in (octets, head[:12] + octets, head + octets):
        assert isinstance(read_data(wire, 7, "app.example", A), list)
