"""Messages over a stream: how the octets are cut does not matter, and memory is bounded."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.framing import Framing, frame

messages = st.lists(st.binary(max_size=50), max_size=8)


@given(messages)
def test_stream_in_one_chunk_gives_every_message(sent: list[bytes]) -> None:
    assert Framing().feed(b"".join(map(frame, sent))) == sent


@given(messages)
def test_stream_octet_by_octet_gives_the_same(sent: list[bytes]) -> None:
    framing = Framing()
    stream = b"".join(map(frame, sent))
    assert [message for octet in stream for message in framing.feed(bytes([octet]))] == sent


@given(messages, st.data())
def test_stream_cut_anywhere_gives_the_same(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, sent))
    cut = data.draw(st.integers(0, len(stream)))
    framing = Framing()
    assert framing.feed(stream[:cut]) + framing.feed(stream[cut:]) == sent


def test_two_queries_in_one_segment_both_read() -> None:
    assert Framing().feed(frame(b"one") + frame(b"two") + b"\0") == [b"one", b"two"]


def test_largest_message_framed_and_read() -> None:
    message = bytes(65535)
    assert Framing().feed(frame(message)) == [message]


def test_larger_message_not_framed() -> None:
    with pytest.raises(ValueError):
        frame(bytes(65536))


def test_message_over_the_limit_refused_when_announced() -> None:
    framing = Framing(max_message=512)
    assert framing.feed(frame(bytes(512))) == [bytes(512)]
    assert framing.feed(b"\x02") == []
    with pytest.raises(ValueError):
        framing.feed(b"\x01")


def test_messages_before_an_oversized_one_lost_with_the_stream() -> None:
    with pytest.raises(ValueError):
        Framing(max_message=4).feed(frame(b"good") + frame(b"large"))


def test_many_empty_messages_read_in_linear_time() -> None:
    def elapsed_s(count: int) -> float:
        start = time.process_time()
        assert len(Framing().feed(b"\0\0" * count)) == count
        return time.process_time() - start

    small = min(elapsed_s(5_000) for _ in range(5))
    large = min(elapsed_s(50_000) for _ in range(5))
    assert large < 40 * small
