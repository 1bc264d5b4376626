"""The messages of an association: what is one, and that nothing else is."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.protocol import udp

HOSTS = st.from_regex(r"[!-~]{0,253}", fullmatch=True)
PORTS = st.integers(1, 65535)
OCTETS = st.integers(0, 255)
PAYLOADS = st.binary(max_size=2000)


@given(st.builds(udp.Send, HOSTS, PORTS, st.integers(1, 255), st.booleans(), PAYLOADS))
def test_request_comes_out_as_it_went_in(message: udp.Send) -> None:
    assert udp.decode_request(udp.encode(message)) == message


@given(
    st.builds(udp.Deliver, HOSTS, PORTS, PAYLOADS)
    | st.builds(udp.Undeliverable, HOSTS, PORTS, OCTETS, OCTETS, st.integers(0, 2**32 - 1), HOSTS)
)
def test_answer_comes_out_as_it_went_in(message: udp.Deliver | udp.Undeliverable) -> None:
    assert udp.decode_answer(udp.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        [0, "host", 0, 64, True, b""],
        [0, "host", 65536, 64, True, b""],
        [0, "host", 53, 0, True, b""],
        [0, "host", 53, 256, True, b""],
        [0, "host", 53, 64, 1, b""],
        [0, "h" * 254, 53, 64, True, b""],
        [0, "host", 53, 64, True, bytes(udp.MAX_PAYLOAD + 1)],
        [0, "host", 53, 64, True],
        [0, "host", 53, 64, True, b"", b""],
        [1, "host", 53, 64, True, b""],
        {"host": "host"},
    ],
)
def test_what_is_no_request_is_refused(message: object) -> None:
    with pytest.raises(ValueError):
        udp.decode_request(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("host", ["two words", "line\n", "\x1b[2J", "n\N{BULLET}m", "\u202e"])
def test_host_is_printable_ascii_so_that_it_is_as_long_as_it_says(host: str) -> None:
    request, answer = [0, host, 53, 64, True, b""], [0, host, 53, b""]
    with pytest.raises(ValueError):
        udp.decode_request(msgspec.msgpack.encode(request))
    with pytest.raises(ValueError):
        udp.decode_answer(msgspec.msgpack.encode(answer))
    with pytest.raises(ValueError):
        udp.decode_answer(msgspec.msgpack.encode([1, "host", 53, 3, 1, 0, host]))


@given(st.binary(max_size=64))
def test_random_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for decode in (udp.decode_request, udp.decode_answer):
        with suppress(ValueError):
            decode(data)


def test_largest_messages_fit_in_a_frame() -> None:
    host, payload = "h" * 253, bytes(udp.MAX_PAYLOAD)
    for message in (
        udp.Send(host, 65535, 255, True, payload),
        udp.Deliver(host, 65535, payload),
        udp.Undeliverable(host, 65535, 255, 255, 2**32 - 1, host),
    ):
        assert len(udp.encode(message)) <= udp.MAX_MESSAGE
