"""Many questions over one stream: each has its own answer, in whatever order these come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.framing import frame
from dns.pipeline import Pipeline
from dns.upstream import FAILED, Outcome

A, MX = 1, 15
NXDOMAIN = 3


def answered(octets: bytes, rcode: int = 0) -> bytes:
    """What a resolver without records says to a framed query."""
    query = octets[2:]
    return frame(query[:2] + (0x8180 | rcode).to_bytes(2) + query[4:])


def outcomes(pipeline: Pipeline, octets: bytes) -> list[tuple[int, Outcome]]:
    return [(ident, answer.outcome) for ident, answer in pipeline.on_octets(octets)]


def test_answers_in_another_order_find_their_questions() -> None:
    pipeline = Pipeline()
    (one, first), (two, second) = pipeline.ask("a.example", A), pipeline.ask("b.example", MX)
    assert one != two
    octets = answered(second, NXDOMAIN) + answered(first)
    assert outcomes(pipeline, octets) == [(two, Outcome.NX_DOMAIN), (one, Outcome.NO_DATA)]


@given(st.integers(1, 30))
def test_answers_in_pieces_are_the_same(size: int) -> None:
    pipeline = Pipeline()
    asked = [pipeline.ask(f"n{n}.example", A) for n in range(3)]
    octets = b"".join(answered(query) for _, query in asked)
    pieces = (octets[at : at + size] for at in range(0, len(octets), size))
    found = [one for piece in pieces for one in outcomes(pipeline, piece)]
    assert found == [(ident, Outcome.NO_DATA) for ident, _ in asked]


def test_answer_to_another_question_has_failed() -> None:
    pipeline = Pipeline()
    ident, _ = pipeline.ask("a.example", A)
    _, other = Pipeline().ask("b.example", A)
    assert pipeline.on_octets(answered(other)) == [(ident, FAILED)]


def test_answer_that_nobody_waits_for_is_left_out() -> None:
    pipeline = Pipeline()
    ident, query = pipeline.ask("a.example", A)
    pipeline.drop(ident)
    assert pipeline.on_octets(answered(query) + frame(b"") + frame(b"\xff\xff")) == []


def test_identifier_waits_until_its_question_is_dropped() -> None:
    pipeline = Pipeline()
    idents = [pipeline.ask("a.example", A)[0] for _ in range(1 << 16)]
    assert sorted(idents) == list(range(1 << 16))
    assert pipeline.is_full
    pipeline.drop(idents[7])
    assert not pipeline.is_full
    assert pipeline.ask("a.example", A)[0] == idents[7]


def test_text_that_is_no_name_takes_no_place() -> None:
    pipeline = Pipeline()
    with pytest.raises(ValueError):
        pipeline.ask("a..b", A)
    assert pipeline.on_octets(frame(b"\0\1" + bytes(10))) == []
