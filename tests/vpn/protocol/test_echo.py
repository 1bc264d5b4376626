"""The messages of the echo service: what is one, and that nothing else is."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.protocol import echo
from vpn.protocol.echo import Failed, Reply, Request

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


@given(REQUESTS)
def test_request_comes_out_as_it_went_in(message: Request) -> None:
    assert echo.decode_request(echo.encode(message)) == message


@given(ANSWERS)
def test_answer_comes_out_as_it_went_in(message: Reply | Failed) -> None:
    assert echo.decode_answer(echo.encode(message)) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for decode in (echo.decode_request, echo.decode_answer):
        with contextlib.suppress(ValueError):
            decode(data)


def test_largest_messages_fit_in_a_frame() -> None:
    host, number, payload = "n" * 253, (1 << 63) - 1, bytes(echo.MAX_PAYLOAD)
    for message in (
        Request(number, 6, host, 255, False, 0xFFFF, payload),
        Reply(number, 0xFFFF, 255, host, payload),
        Failed(number, 0xFFFF, 255, 255, 0xFFFFFFFF, host),
    ):
        assert len(echo.encode(message)) <= echo.MAX_MESSAGE


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
        echo.decode_request(encoded)


@pytest.mark.parametrize("host", ["two words", "line\n", "\x1b[2J", "n\N{BULLET}m", "\u202e"])
def test_host_is_printable_ascii_so_that_it_is_as_long_as_it_says(host: str) -> None:
    asked = msgspec.msgpack.encode(("request", 1, 4, host, 64, True, 7, b""))
    with pytest.raises(ValueError):
        echo.decode_request(asked)
    for answered in (("reply", 1, 7, 64, host, b""), ("failed", 1, 7, 3, 1, 0, host)):
        encoded = msgspec.msgpack.encode(answered)
        with pytest.raises(ValueError):
            echo.decode_answer(encoded)


def test_good_message_is_understood_as_the_bad_ones_would_be() -> None:
    encoded = msgspec.msgpack.encode(("request", *msgspec.structs.astuple(REQUEST)))
    assert echo.decode_request(encoded) == REQUEST
