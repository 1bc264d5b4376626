"""Messages about echo over a stream: however it is cut, the same messages come out, or an error."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.protocol import echo
from vpn.protocol.echo import Answers, Failed, Reply, Request, Requests

NUMBERS = st.integers(0, (1 << 63) - 1)
WORDS = st.integers(0, 0xFFFF)
OCTETS = st.integers(0, 0xFF)
HOSTS = st.from_regex(r"[!-~]{0,253}", fullmatch=True)
REQUESTS = st.builds(
    Request,
    NUMBERS,
    st.sampled_from([4, 6]),
    HOSTS,
    st.integers(1, 255),
    st.booleans(),
    WORDS,
    st.binary(max_size=200),
)
ANSWERS = st.one_of(
    st.builds(Reply, NUMBERS, WORDS, OCTETS, HOSTS, st.binary(max_size=200)),
    st.builds(Failed, NUMBERS, WORDS, OCTETS, OCTETS, st.integers(0, 0xFFFFFFFF), HOSTS),
)
REQUEST = Request(1, 4, "192.0.2.1", 64, True, 7, b"payload")


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, cut at some places."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(REQUESTS, max_size=5), st.lists(st.integers(0, 10_000), max_size=20))
def test_requests_are_the_same_however_the_stream_is_cut(
    sent: list[Request], places: list[int]
) -> None:
    requests = Requests()
    pieces = cut(b"".join(map(echo.frame, sent)), places)
    assert [one for piece in pieces for one in requests.feed(piece)] == sent


@given(st.lists(ANSWERS, max_size=5), st.lists(st.integers(0, 10_000), max_size=20))
def test_answers_are_the_same_however_the_stream_is_cut(
    sent: list[Reply | Failed], places: list[int]
) -> None:
    answers = Answers()
    pieces = cut(b"".join(map(echo.frame, sent)), places)
    assert [one for piece in pieces for one in answers.feed(piece)] == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_an_error(stream: bytes) -> None:
    for side in (Requests(), Answers()):
        with contextlib.suppress(ValueError):
            side.feed(stream)


@pytest.mark.parametrize("size", [0, echo.MAX_PAYLOAD])
def test_smallest_and_largest_payload_go_over(size: int) -> None:
    request = Request((1 << 63) - 1, 6, "n" * 253, 255, False, 0xFFFF, bytes(size))
    assert Requests().feed(echo.frame(request)) == [request]
    reply = Reply((1 << 63) - 1, 0xFFFF, 255, "n" * 253, bytes(size))
    assert Answers().feed(echo.frame(reply)) == [reply]


def test_announced_too_large_is_an_error_before_it_has_come() -> None:
    with pytest.raises(ValueError, match="announced"):
        Requests().feed((1 << 20).to_bytes(4))


@pytest.mark.parametrize(
    "fields",
    [
        ("request", 1, 5, "192.0.2.1", 64, True, 7, b""),
        ("request", 1, 4, "192.0.2.1", 0, True, 7, b""),
        ("request", 1, 4, "192.0.2.1", 256, True, 7, b""),
        ("request", 1, 4, "192.0.2.1", 64, True, 0x10000, b""),
        ("request", -1, 4, "192.0.2.1", 64, True, 7, b""),
        ("request", 1, 4, "n" * 254, 64, True, 7, b""),
        ("request", 1, 4, "192.0.2.1", 64, True, 7),
        ("request", 1, 4, "192.0.2.1", 64, True, 7, b"", 1),
        ("reply", 1, 7, 64, "192.0.2.1", b""),
        ("other", 1),
    ],
)
def test_message_beyond_its_bounds_is_an_error(fields: tuple[object, ...]) -> None:
    encoded = msgspec.msgpack.encode(fields)
    with pytest.raises(ValueError):
        Requests().feed(len(encoded).to_bytes(4) + encoded)


@pytest.mark.parametrize("host", ["two words", "line\n", "\x1b[2J", "n\N{BULLET}m", "\u202e"])
def test_host_is_printable_ascii_so_that_it_is_as_long_as_it_says(host: str) -> None:
    asked = msgspec.msgpack.encode(("request", 1, 4, host, 64, True, 7, b""))
    with pytest.raises(ValueError):
        Requests().feed(len(asked).to_bytes(4) + asked)
    for answered in (("reply", 1, 7, 64, host, b""), ("failed", 1, 7, 3, 1, 0, host)):
        encoded = msgspec.msgpack.encode(answered)
        with pytest.raises(ValueError):
            Answers().feed(len(encoded).to_bytes(4) + encoded)


def test_good_message_is_understood_as_the_bad_ones_would_be() -> None:
    encoded = msgspec.msgpack.encode(("request", *msgspec.structs.astuple(REQUEST)))
    assert Requests().feed(len(encoded).to_bytes(4) + encoded) == [REQUEST]
