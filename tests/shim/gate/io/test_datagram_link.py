"""The end of the link for datagrams at the gate: what is lost, what is kept, what replaces it."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from shim.gate.io.datagram_link import DatagramLink
from shim.protocol.datagrams import CLIENT_OF_GATE, Forget, Send
from shim.protocol.gate import DropReason
from shim.protocol.link import Link, LinkClosedError, Message

SENT = Send(1, 4, "192.0.2.1", 53, 63, True, bytes(1400))


class Bench:
    """The link of a gate, and the client's end of it."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.heard: list[Message] = []
        self.dropped: Counter[DropReason] = Counter()
        self.link = DatagramLink(self.poll, self.heard.append, self.dropped)
        self.client = self.begin()

    def begin(self) -> Link:
        client, gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.attach(gate.detach())
        return Link(client, CLIENT_OF_GATE)

    def fill(self) -> int:
        """Send until there is no room. Returns how many have found some."""
        count = 0
        while self.link.send(SENT):
            count += 1
        return count

    def read(self) -> list[Message]:
        found = []
        while (received := self.client.receive()) is not None:
            found.append(received[0])
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.link.close()
    bench.client.close()
    bench.poll.close()


def test_full_link_drops_and_counts_until_the_client_has_read(bench: Bench) -> None:
    count = bench.fill()
    assert bench.link.is_full
    assert not bench.link.send(SENT)
    assert bench.dropped == {DropReason.DATAGRAM_LINK: 2}
    assert bench.read() == [SENT] * count
    assert not bench.link.send(SENT)  # not before the event
    assert bench.poll.poll(1) == [(bench.link.fd, select.EPOLLOUT)]
    bench.link.on_event()
    assert bench.link.send(SENT)
    assert bench.poll.poll(0) == []


def test_what_is_sent_later_comes_once_there_is_room(bench: Bench) -> None:
    bench.fill()
    bench.link.send_later(Forget(1))
    bench.read()
    bench.link.on_event()
    assert bench.read() == [Forget(1)]


def test_newer_link_takes_the_place_of_a_full_one(bench: Bench) -> None:
    former = bench.client
    count = bench.fill()
    bench.client = bench.begin()
    for _ in range(count):
        assert former.receive() == (SENT, [])
    with pytest.raises(LinkClosedError):
        former.receive()
    assert not bench.link.is_full
    assert bench.link.send(SENT)
    assert bench.read() == [SENT]
    former.close()


def test_client_that_has_gone_leaves_no_link(bench: Bench) -> None:
    bench.client.close()
    bench.link.on_event()
    assert (bench.link.fd, bench.link.is_full) == (-1, True)
    assert not bench.link.send(SENT)
    assert bench.dropped == {DropReason.DATAGRAM_LINK: 1}
