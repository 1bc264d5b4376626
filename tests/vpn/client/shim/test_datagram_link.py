"""The client's end of the link for datagrams: it loses what is not taken, and says when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from shim.protocol.datagrams import GATE, Deliver, Forget, Send, Undeliverable
from shim.protocol.link import Link, Message
from vpn.client.shim.datagram_link import DatagramLink

Dialogue = Callable[[DatagramLink, list[object]], Awaitable[None]]

VIOLATION = "violation"


def play(dialogue: Dialogue) -> None:
    async def act() -> None:
        got: list[object] = []
        link = DatagramLink(got.append, lambda: got.append(VIOLATION))
        try:
            await asyncio.wait_for(dialogue(link, got), 10)
        finally:
            link.close()

    asyncio.run(act())


def gate_of(link: DatagramLink) -> Link:
    return Link(socket.socket(fileno=link.renew()), GATE)


async def until(is_true: Callable[[], bool]) -> None:
    for _ in range(5000):
        if is_true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def deliver(payload: bytes) -> Message:
    return Deliver(1, "192.0.2.1", 53, payload)


def test_largest_datagram_passes_both_ways() -> None:
    async def dialogue(link: DatagramLink, got: list[object]) -> None:
        gate = gate_of(link)
        largest = bytes(65507)
        link.send(deliver(largest))
        assert gate.receive() == (deliver(largest), [])
        sent = Send(1, 4, "www.example.com", 443, 63, True, largest)
        assert gate.send(sent)
        await until(lambda: got == [sent])
        gate.close()

    play(dialogue)


def test_gate_that_does_not_read_loses_datagrams_and_gets_later_ones() -> None:
    async def dialogue(link: DatagramLink, got: list[object]) -> None:
        gate = gate_of(link)
        while not link.dropped:
            link.send(deliver(bytes(1400)))
        while gate.receive() is not None:
            pass
        link.send(deliver(b"later"))
        assert gate.receive() == (deliver(b"later"), [])
        assert link.dropped == 1
        gate.close()

    play(dialogue)


def test_gate_that_breaks_a_rule_is_told_of_once() -> None:
    async def dialogue(link: DatagramLink, got: list[object]) -> None:
        gate = gate_of(link)
        gate.send(deliver(b""))  # what a gate receives, not what it sends
        await until(lambda: got == [VIOLATION])
        gate.close()

    play(dialogue)


def test_gate_that_is_gone_ends_nothing_and_the_next_one_is_served() -> None:
    async def dialogue(link: DatagramLink, got: list[object]) -> None:
        gate_of(link).close()
        link.send(deliver(b""))
        following = gate_of(link)
        following.send(Forget(1))
        await until(lambda: got == [Forget(1)])
        link.send(Undeliverable(1, "192.0.2.1", 53, 3, 3, 0, ""))
        assert following.receive() is not None
        following.close()

    play(dialogue)
