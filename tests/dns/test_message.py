"""The parser: any octets give a query, an error to answer, or silence, and cost one pass."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dns.codes import RCode
from dns.message import MAX_RECORDS, Edns, Malformed, Query, parse_query

Ask = Callable[..., bytes]

TAIL = b"\0\x01\0\x01"
OPT = struct.pack("!BHHIH", 0, 41, 1232, 0, 0)


def header(
    questions: int = 1,
    answers: int = 0,
    authority: int = 0,
    additional: int = 0,
    flags: int = 0x0100,
) -> bytes:
    return struct.pack("!6H", 7, flags, questions, answers, authority, additional)


def rcode_of(wire: bytes) -> RCode:
    got = parse_query(wire)
    assert isinstance(got, Malformed)
    return got.rcode


def test_plain_query_read(ask: Ask) -> None:
    assert parse_query(ask("wWw.ExAmple", 28, ident=9)) == Query(
        id=9, labels=(b"wWw", b"ExAmple"), qtype=28, qclass=1, rd=True, cd=False, edns=None
    )


def test_query_for_root_read(ask: Ask) -> None:
    got = parse_query(ask((), 2))
    assert isinstance(got, Query)
    assert got.labels == ()


def test_query_flags_kept(ask: Ask) -> None:
    got = parse_query(ask(flags=0x0010))
    assert isinstance(got, Query)
    assert (got.rd, got.cd) == (False, True)


@pytest.mark.parametrize("payload", [0, 512, 1232, 65535])
def test_query_with_edns_read(ask: Ask, payload: int) -> None:
    got = parse_query(ask(payload=payload, do=True))
    assert isinstance(got, Query)
    assert got.edns == Edns(payload, do=True)


def test_opt_behind_other_records_found(ask: Ask) -> None:
    question = ask()[12:]
    key = b"\x03key\0" + struct.pack("!HHIH", 249, 255, 0, 2) + b"ab"
    got = parse_query(header(additional=3) + question + key + OPT + key)
    assert isinstance(got, Query)
    assert got.edns == Edns(1232, do=False)


def test_record_with_pointer_as_owner_skipped(ask: Ask) -> None:
    record = b"\xc0\xff" + struct.pack("!HHIH", 1, 1, 0, 0)
    assert isinstance(parse_query(header(additional=2) + ask()[12:] + record + OPT), Query)


def test_edns_version_1_is_badvers(ask: Ask) -> None:
    wire = ask(payload=1232, version=1)
    got = parse_query(wire)
    assert isinstance(got, Malformed)
    assert (got.rcode, got.question) == (RCode.BADVERS, wire[12:-11])


@pytest.mark.parametrize(
    "records",
    [
        pytest.param((0, 0, 2, OPT + OPT), id="twice"),
        pytest.param((1, 0, 0, OPT), id="as an answer"),
        pytest.param((0, 1, 0, OPT), id="as authority"),
        pytest.param((0, 0, 1, b"\x01x" + OPT), id="not at the root"),
        pytest.param((0, 0, 1, b""), id="announced and missing"),
        pytest.param((0, 0, 1, OPT[:-1]), id="cut short"),
        pytest.param((0, 0, 1, OPT[:-2] + b"\0\x01"), id="options cut short"),
        pytest.param((0, 0, 1, b"\x40" + OPT), id="bad label"),
        pytest.param((0, 0, 1, b"\x3f" + OPT), id="label past the end"),
        pytest.param((0, 0, 1, b"\x01x" * 128 + OPT), id="owner too long"),
    ],
)
def test_misplaced_opt_is_formerr(ask: Ask, records: tuple[int, int, int, bytes]) -> None:
    *counts, octets = records
    assert rcode_of(header(1, *counts) + ask()[12:] + octets) is RCode.FORMERR


@pytest.mark.parametrize(("labels", "expected"), [(127, Query), (128, Malformed)])
def test_record_with_owner_of_255_octets_skipped_and_longer_is_formerr(
    ask: Ask, labels: int, expected: type
) -> None:
    record = b"\x01x" * labels + b"\0" + struct.pack("!HHIH", 249, 255, 0, 0)
    assert isinstance(parse_query(header(additional=1) + ask()[12:] + record), expected)


def test_more_records_than_any_query_has_is_formerr(ask: Ask) -> None:
    record = b"\0" + struct.pack("!HHIH", 1, 1, 0, 0)
    question = ask()[12:]
    full = header(additional=MAX_RECORDS) + question + record * MAX_RECORDS
    assert isinstance(parse_query(full), Query)
    over = header(additional=MAX_RECORDS + 1) + question + record * (MAX_RECORDS + 1)
    assert rcode_of(over) is RCode.FORMERR


@pytest.mark.parametrize("count", [0, 2, 65535])
def test_not_one_question_is_formerr(ask: Ask, count: int) -> None:
    assert rcode_of(header(count) + ask()[12:] * 2) is RCode.FORMERR


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"\xc0\x0c", id="pointer to itself"),
        pytest.param(b"\xc0\x0e\xc0\x0c", id="cycle of two"),
        pytest.param(b"\x01a\xc0\x0c", id="cycle through a label"),
        pytest.param(b"\xc0\x00", id="pointer into the header"),
        pytest.param(b"\xff\xff", id="pointer past the end"),
        pytest.param(
            b"".join(struct.pack("!H", 0xC000 | 12 + 2 * n) for n in range(1, 1001)),
            id="chain of 1000 pointers",
        ),
        pytest.param(b"\x40a\0", id="label type 0x40"),
        pytest.param(b"\x41" + b"a" * 65 + b"\0", id="label of 65"),
        pytest.param(b"\x80a\0", id="label type 0x80"),
        pytest.param((b"\x3f" + b"a" * 63) * 3 + b"\x3f" + b"a" * 63 + b"\0", id="name of 257"),
        pytest.param((b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0", id="name of 256"),
        pytest.param(b"\x01a" * 127 + b"\x01a\0", id="128 labels"),
        pytest.param(b"\x01a" * 20000 + b"\0", id="20000 labels"),
    ],
)
def test_question_with_bad_name_is_formerr(name: bytes) -> None:
    assert rcode_of(header() + name + TAIL) is RCode.FORMERR


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param((b"a" * 63, b"a" * 63, b"a" * 63, b"a" * 61), id="255 octets"),
        pytest.param((b"a",) * 127, id="127 labels"),
        pytest.param((bytes(range(63)), b"\xff.\\"), id="any octets"),
    ],
)
def test_question_with_longest_name_read(ask: Ask, labels: tuple[bytes, ...]) -> None:
    got = parse_query(ask(labels))
    assert isinstance(got, Query)
    assert got.labels == labels


def test_query_cut_anywhere_is_formerr_or_silence(ask: Ask) -> None:
    wire = ask(payload=1232)
    assert [parse_query(wire[:end]) for end in range(12)] == [None] * 12
    assert {rcode_of(wire[:end]) for end in range(12, len(wire))} == {RCode.FORMERR}


def test_answer_met_with_silence(ask: Ask) -> None:
    assert parse_query(ask(flags=0x8180)) is None


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcode_is_notimp(ask: Ask, opcode: int) -> None:
    got = parse_query(ask(flags=opcode << 11 | 0x0100))
    assert got == Malformed(0x1234, opcode, rd=True, rcode=RCode.NOTIMP)


def test_octets_behind_the_query_ignored(ask: Ask) -> None:
    assert isinstance(parse_query(ask() + b"\0" * 100), Query)


@given(st.binary(max_size=600))
@example(b"")
@example(b"\0" * 12)
def test_any_octets_read_without_exception(wire: bytes) -> None:
    assert isinstance(parse_query(wire), Query | Malformed | None)


@given(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_header_with_any_octets_read_without_exception(
    octets: bytes, answers: int, authority: int, additional: int
) -> None:
    wire = header(1, answers, authority, additional) + octets
    assert isinstance(parse_query(wire), Query | Malformed)


@given(st.data())
def test_query_with_one_octet_changed_read_without_exception(ask: Ask, data: st.DataObject) -> None:
    wire = bytearray(ask("a.quite.ordinary.name.example", payload=1232))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(parse_query(bytes(wire)), Query | Malformed | None)


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=10).map(tuple),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_any_question_read_back(
    ask: Ask, labels: tuple[bytes, ...], qtype: int, qclass: int
) -> None:
    got = parse_query(ask(labels, qtype, qclass=qclass))
    assert isinstance(got, Query)
    assert (got.labels, got.qtype, got.qclass) == (labels, qtype, qclass)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(header(65535, 65535, 65535, 65535) + b"\0" * 65523, id="zeros"),
        pytest.param(header(1, 0, 0, 65535) + b"\0" + TAIL + b"\0" * 65518, id="empty records"),
        pytest.param(header() + b"\x01a" * 32761, id="labels"),
        pytest.param(header() + b"\xc0\x0c" * 32761, id="pointers"),
        pytest.param(
            header(1, 0, 0, MAX_RECORDS) + b"\0" + TAIL + b"\x01a" * 32759, id="labels of an owner"
        ),
        pytest.param(
            header(1, 0, 0, MAX_RECORDS)
            + b"\0"
            + TAIL
            + (b"\x01a" * 126 + b"\0" + struct.pack("!HHIH", 1, 1, 0, 3000) + b"\0" * 3000) * 16,
            id="long owners",
        ),
    ],
)
def test_64_kib_read_within_5_ms(wire: bytes) -> None:
    def elapsed_s() -> float:
        start = time.process_time()
        parse_query(wire)
        return time.process_time() - start

    assert min(elapsed_s() for _ in range(10)) < 0.005
