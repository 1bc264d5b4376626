"""Connections to the resolver: bounded, and gone as one with what knows of them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from dns import framing
from shim.gate.io.dns_tcp import IDLE_S, MAX_STREAMS, DnsStreams

SERVER = b"\xc6\x12\x00\x01"
QUESTION, ANSWER = b"question", b"answer"


class Bench:
    """All connections over an epoll, and whoever asked last."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.asked: list[tuple[bytes, bytes]] = []
        self.numbers: list[int] = []
        self.streams = DnsStreams(self.poll, self._on_query)

    def _on_query(self, wire: bytes, server: bytes, number: int) -> None:
        self.asked.append((wire, server))
        self.numbers.append(number)

    def connect(self, now: float = 0.0) -> socket.socket:
        near, far = socket.socketpair()
        self.streams.add(far, SERVER, now)
        near.settimeout(5)
        return near

    def turn(self, now: float = 0.0) -> None:
        for fd, _ in self.poll.poll(1):
            self.streams.on_event(fd, now)


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.streams.expire(float("inf"))
    one.poll.close()


def test_message_is_asked_and_answered_in_its_frame(bench: Bench) -> None:
    with bench.connect() as near:
        near.sendall(framing.frame(QUESTION))
        bench.turn()
        assert bench.asked == [(QUESTION, SERVER)]
        bench.streams.reply(bench.numbers[0], ANSWER)
        assert near.recv(100) == framing.frame(ANSWER)


def test_end_of_a_connection_is_the_end_of_its_answers(bench: Bench) -> None:
    with bench.connect() as near:
        near.sendall(framing.frame(QUESTION))
        bench.turn()
    bench.turn()
    # The next one has its descriptor, and not its answers.
    with bench.connect() as other:
        bench.streams.reply(bench.numbers[0], ANSWER)
        other.settimeout(0.05)
        with pytest.raises(TimeoutError):
            other.recv(100)


def test_peer_that_does_not_read_its_answers_has_no_connection_any_more(bench: Bench) -> None:
    with bench.connect() as near:
        near.sendall(framing.frame(QUESTION))
        bench.turn()
        for _ in range(10000):
            bench.streams.reply(bench.numbers[0], ANSWER * 100)
        while near.recv(1 << 20):
            pass
        with bench.connect() as other:
            other.sendall(framing.frame(QUESTION))
            bench.turn()
            # What was dropped is not dropped again, and takes nobody else along.
            bench.streams.expire(IDLE_S)
            bench.streams.reply(bench.numbers[1], ANSWER)
            assert other.recv(100) == framing.frame(ANSWER)
        bench.streams.expire(IDLE_S + 1)


def test_idlest_makes_room_for_one_more(bench: Bench) -> None:
    near = [bench.connect(float(number)) for number in range(MAX_STREAMS + 1)]
    assert near[0].recv(1) == b""
    near[1].sendall(framing.frame(QUESTION))
    bench.turn()
    assert bench.asked
    for one in near:
        one.close()


def test_what_is_idle_for_too_long_is_closed(bench: Bench) -> None:
    with bench.connect() as near:
        bench.streams.expire(IDLE_S)
        near.sendall(framing.frame(QUESTION))
        bench.turn(IDLE_S)
        bench.streams.expire(2 * IDLE_S)
        assert bench.asked
        bench.streams.expire(2 * IDLE_S + 1)
        assert near.recv(1) == b""
