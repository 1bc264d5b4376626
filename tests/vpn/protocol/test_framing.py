"""Messages over a stream: however it is cut, they are the same."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.protocol.framing import Frames, frame

MAX = 300


@given(st.lists(st.binary(max_size=MAX), max_size=8), st.lists(st.integers(1, 40), min_size=1))
def test_messages_arrive_whole_however_the_stream_is_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(map(frame, messages))
    frames = Frames(MAX)
    found: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += frames.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert found == messages


@given(st.binary(max_size=64))
def test_random_bytes_are_messages_or_the_end(data: bytes) -> None:
    with suppress(ValueError):
        assert all(len(one) <= MAX for one in Frames(MAX).feed(data))


def test_message_that_is_too_large_is_refused_when_it_is_announced() -> None:
    with pytest.raises(ValueError, match="301 octets"):
        Frames(MAX).feed((MAX + 1).to_bytes(4))
