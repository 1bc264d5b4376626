"""A link on an event loop: in order, whatever the peer does, and to its last word."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from dialogues import until

from shim.protocol.gate import CLIENT_OF_GATE, GATE, Configure, Open, Opened
from shim.protocol.handover import pair
from shim.protocol.link import Link, Message
from vpn.client.shim.link import AsyncLink

KEY = bytes(12)

Dialogue = Callable[[AsyncLink, Link, list[Message]], Awaitable[None]]


def play(dialogue: Dialogue) -> None:
    async def act() -> None:
        got: list[Message] = []
        client, gate = pair(CLIENT_OF_GATE, GATE)
        link = AsyncLink(client, lambda message, _: got.append(message))
        try:
            await asyncio.wait_for(dialogue(link, gate, got), 10)
        finally:
            link.close()
            gate.close()

    asyncio.run(act())


def test_messages_arrive_in_order() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        sent = [Open(number, KEY, "host", 80) for number in range(100)]
        for message in sent:
            assert gate.send(message)
        await until(lambda: len(got) == 100)
        assert got == sent

    play(dialogue)


def test_peer_that_reads_late_gets_everything_in_order() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        for number in range(5000):
            link.send(Opened(number))
        read: list[Message] = []

        def read_on() -> bool:
            while (received := gate.receive()) is not None:
                read.append(received[0])
            return len(read) == 5000

        await until(read_on)
        assert read == [Opened(number) for number in range(5000)]

    play(dialogue)


def test_descriptors_arrive_late_too_and_are_not_kept() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        before = len(os.listdir("/proc/self/fd"))
        settings = Configure(False, ())
        for number in range(5000):
            link.send(Opened(number))
        link.send(settings, (os.dup(0),))
        found: list[int] = []

        def read_on() -> bool:
            while not found and (received := gate.receive()) is not None:
                found.extend(received[1])
            return bool(found)

        await until(read_on)
        await until(lambda: len(os.listdir("/proc/self/fd")) == before + 1)
        os.close(found[0])
        link.close()
        link.send(settings, (os.dup(0),))
        assert len(os.listdir("/proc/self/fd")) < before

    play(dialogue)


def test_last_word_of_a_peer_that_goes_is_heard() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        gate.send(Open(1, KEY, "host", 80))
        gate.close()
        link.send(Opened(1))
        await link.closed
        assert got == [Open(1, KEY, "host", 80)]

    play(dialogue)


def test_peer_that_breaks_a_rule_is_dropped() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        gate.send(Opened(1))  # what a gate receives, not what it sends
        await link.closed
        assert got == []

    play(dialogue)


def test_peer_that_never_reads_is_dropped_in_the_end() -> None:
    async def dialogue(link: AsyncLink, gate: Link, got: list[Message]) -> None:
        for number in range(70_000):
            link.send(Opened(number))
        assert link.closed.done()

    play(dialogue)
