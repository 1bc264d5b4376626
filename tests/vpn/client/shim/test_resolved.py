"""The machine's resolver is told of the tunnel, waited for a while, and never failed on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from shim.protocol.link import Link, Message
from shim.protocol.resolved import ABSENT, RESOLVED, Announce, Answer, Outcome, Told, Withdraw
from vpn.client.shim import resolved
from vpn.client.shim.resolved import ResolvedHelper

DONE = Told(Answer(Outcome.DONE), ABSENT)


def play(dialogue: Callable[[ResolvedHelper, Link], Awaitable[None]]) -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host, service = ResolvedHelper(ours), Link(theirs, RESOLVED)
        try:
            await asyncio.wait_for(dialogue(host, service), 10)
        finally:
            host.close()
            service.close()

    asyncio.run(act())


async def said(service: Link) -> Message:
    for _ in range(5000):
        if (received := service.receive()) is not None:
            return received[0]
        await asyncio.sleep(0.001)
    raise AssertionError("it says nothing")


def test_without_a_bus_nobody_is_told() -> None:
    async def act() -> None:
        host = ResolvedHelper(None)
        await host.announce()
        host.pause(10)
        host.close()
        assert host.warnings == ()

    asyncio.run(act())


def test_answer_ends_the_wait() -> None:
    async def dialogue(host: ResolvedHelper, service: Link) -> None:
        announcing = asyncio.create_task(host.announce())
        assert await said(service) == Announce()
        assert not announcing.done()
        service.send(DONE)
        await announcing
        assert (host.told, host.warnings) == (DONE, ())

    play(dialogue)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(Outcome.REFUSED, "org.example.No"), "does not let us"),
        (Answer(Outcome.SILENT), "does not answer"),
        (Answer(Outcome.FAILED, "org.example.No"), "(org.example.No)"),
    ],
)
def test_what_went_wrong_is_one_warning(answer: Answer, words: str) -> None:
    async def dialogue(host: ResolvedHelper, service: Link) -> None:
        service.send(Told(answer, answer))
        await host.announce()
        resolved, manager = host.warnings
        for line in (resolved, manager):
            assert words in line
        assert "names are captured" in resolved
        assert "unmanaged-devices" in manager

    play(dialogue)


def test_silence_delays_by_a_bound_and_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved, "START_PATIENCE_S", 0.01)

    async def dialogue(host: ResolvedHelper, service: Link) -> None:
        await host.announce()
        assert host.told.resolved.outcome is Outcome.SILENT
        service.send(DONE)
        monkeypatch.undo()
        await host.announce()
        assert (host.told, host.warnings) == (DONE, ())

    play(dialogue)


def test_process_that_ends_is_nobody_to_wait_for() -> None:
    async def dialogue(host: ResolvedHelper, service: Link) -> None:
        announcing = asyncio.create_task(host.announce())
        await said(service)
        service.close()
        await announcing
        assert host.warnings == ()
        host.pause(10)

    play(dialogue)


def test_pause_withdraws_and_its_end_announces_again() -> None:
    async def dialogue(host: ResolvedHelper, service: Link) -> None:
        host.pause(3600)
        assert await said(service) == Withdraw()
        host.pause(0)
        assert await said(service) == Announce()
        host.pause(0.01)  # type: ignore[arg-type]
        assert await said(service) == Withdraw()
        assert await said(service) == Announce()

    play(dialogue)
