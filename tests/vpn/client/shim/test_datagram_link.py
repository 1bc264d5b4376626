"""The client's end of the link for datagrams: it loses what is not taken, and says when it ends."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractAsyncContextManager

from dialogues import dialogue, until

from shim.protocol.datagrams import GATE, Deliver, Forget, Send, Undeliverable, burst
from shim.protocol.link import Link, Message
from vpn.client.shim.datagram_link import DatagramLink

VIOLATION = "violation"


class Bench(AbstractAsyncContextManager):
    """The client's end, and what it says of the gate."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.link = DatagramLink(self.got.append, lambda: self.got.append(VIOLATION))

    async def __aexit__(self, *_: object) -> None:
        self.link.close()

    def renew(self) -> Link:
        """Return the end of a new gate."""
        return Link(socket.socket(fileno=self.link.renew()), GATE)


played = dialogue(Bench)


def deliver(payload: bytes) -> Message:
    return Deliver(1, "192.0.2.1", 53, payload)


@played
async def test_largest_datagram_passes_both_ways(bench: Bench) -> None:
    gate = bench.renew()
    largest = bytes(65507)
    bench.link.send(deliver(largest))
    assert gate.receive() == (deliver(largest), [])
    sent = Send(1, 4, "www.example.com", 443, 63, True, largest)
    assert gate.send(sent)
    await until(lambda: bench.got == [sent])
    gate.close()


@played
async def test_gate_that_does_not_read_loses_datagrams_and_gets_later_ones(bench: Bench) -> None:
    gate = bench.renew()
    for _ in range(10_000):
        bench.link.send(deliver(bytes(1400)))
    assert 500 < len(list(burst(gate, 10_000))) < 5_000
    bench.link.send(deliver(b"later"))
    assert gate.receive() == (deliver(b"later"), [])
    gate.close()


@played
async def test_gate_that_breaks_a_rule_is_told_of_once(bench: Bench) -> None:
    gate = bench.renew()
    gate.send(deliver(b""))  # what a gate receives, not what it sends
    await until(lambda: bench.got == [VIOLATION])
    gate.close()


@played
async def test_gate_that_is_gone_ends_nothing_and_the_next_one_is_served(bench: Bench) -> None:
    bench.renew().close()
    bench.link.send(deliver(b""))
    following = bench.renew()
    following.send(Forget(1))
    await until(lambda: bench.got == [Forget(1)])
    bench.link.send(Undeliverable(1, "192.0.2.1", 53, 3, 3, 0, ""))
    assert following.receive() is not None
    following.close()


@played
async def test_more_than_a_burst_is_taken_and_the_gate_that_follows_ends_it(bench: Bench) -> None:
    gate = bench.renew()
    for number in range(200):
        assert gate.send(Forget(number))
    await until(lambda: len(bench.got) == 200)
    assert bench.got == [Forget(number) for number in range(200)]
    gate.send(Forget(200))
    following = bench.renew()
    following.send(Forget(201))
    await until(lambda: len(bench.got) > 200)
    assert bench.got[200:] == [Forget(201)]
    gate.close()
    following.close()


@played
async def test_message_that_makes_the_link_anew_is_the_last_of_the_old_one(bench: Bench) -> None:
    following: list[Link] = []
    bench.link = DatagramLink(lambda _: following.append(bench.renew()), lambda: None)
    gate = bench.renew()
    for number in range(3):
        gate.send(Forget(number))
    await until(lambda: bool(following))
    await asyncio.sleep(0.01)
    assert len(following) == 1
    gate.close()
    following[0].close()


@played
async def test_without_a_gate_datagrams_are_lost(bench: Bench) -> None:
    bench.link.send(deliver(b""))
    bench.link.close()
    gate = bench.renew()
    assert gate.receive() is None
    gate.close()
