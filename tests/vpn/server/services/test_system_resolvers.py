"""Asking the resolvers of this machine; they are played, on the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from transport_lab import free_port

from dns import framing, response, upstream
from dns.codes import ExtendedError, RCode
from dns.message import Query, parse_query
from dns.names import to_wire
from dns.records import Record
from dns.upstream import Answer, Outcome
from vpn.server.services import system_resolvers as module
from vpn.server.services.system_resolvers import SystemResolvers

TXT = 16
NAME = (b"app", b"example")
LOOPBACK = f"127.{os.getpid() >> 8 & 0x7F | 1}.{os.getpid() & 0xFF}"
"""Nobody else of those who test at the same time is here."""

Behaviour = Callable[[Query, bool], list[bytes]]
"""What a resolver sends for a query that came, or came not, over TCP."""


def records(query: Query, size: int = 10) -> bytes:
    text = Record(to_wire(query.labels), TXT, 1, 60, b"\xff" + b"x" * size)
    return response.far(query, Answer(Outcome.FOUND, 60, (text,)), over_tcp=True)


def good(query: Query, over_tcp: bool) -> list[bytes]:
    return [records(query)]


def failing(query: Query, over_tcp: bool) -> list[bytes]:
    return [response.error(query, RCode.SERVFAIL, ExtendedError.OTHER, "no")]


def silent(query: Query, over_tcp: bool) -> list[bytes]:
    return []


def truncating(query: Query, over_tcp: bool) -> list[bytes]:
    whole = records(query, 3000)
    return [whole] if over_tcp else [whole[:2] + b"\x83\x80" + whole[4:30]]


def lying(query: Query, over_tcp: bool) -> list[bytes]:
    """Answers of strangers come first: none of them is taken."""
    whole = records(query)
    another = whole.replace(b"\3app", b"\3apq")
    return [b"", b"\0" * 11, bytes((whole[0] ^ 1,)) + whole[1:], another, whole[:14], whole]


class Played(asyncio.DatagramProtocol):
    """A resolver."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.idents: list[int] = []
        self.asked: list[str] = []
        self.are_eight = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for each in self.answers(data, False):
            self.transport.sendto(each, addr)

    async def on_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2))
        for each in self.answers(await reader.readexactly(length), True):
            writer.write(framing.frame(each))
        await writer.drain()
        writer.close()

    def answers(self, data: bytes, over_tcp: bool) -> list[bytes]:
        query = parse_query(data)
        assert isinstance(query, Query)
        self.idents.append(query.id)
        self.asked.append("tcp" if over_tcp else "udp")
        if len(self.asked) == 8:
            self.are_eight.set()
        return self.behaviour(query, over_tcp)


@asynccontextmanager
async def world(tmp_path: Path, *behaviours: Behaviour, options: str = "timeout:1") -> Any:
    """Resolvers, in the order of resolv.conf, and who asks them."""
    port, loop, players = free_port(socket.SOCK_STREAM), asyncio.get_running_loop(), []
    lines = [f"options {options}"]
    async with AsyncExitStack() as stack:
        for number, behaviour in enumerate(behaviours, 1):
            address, played = f"{LOOPBACK}.{number}", Played(behaviour)
            lines.append(f"nameserver {address}")
            transport, _ = await loop.create_datagram_endpoint(
                lambda played=played: played, (address, port)
            )
            stack.callback(transport.close)
            server = await asyncio.start_server(played.on_stream, address, port)
            await stack.enter_async_context(server)
            players.append(played)
        path = tmp_path / "resolv.conf"
        path.write_text("\n".join(lines))
        yield SystemResolvers(path, port), players


def outcome_of(found: bytes | None) -> Outcome | None:
    return found and upstream.read_answer(found, 0, "app.example", TXT).outcome


def play(dialogue: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(dialogue(), 30))


@pytest.mark.parametrize(
    ("behaviours", "outcome"),
    [
        ((good,), Outcome.FOUND),
        ((lying,), Outcome.FOUND),
        ((truncating,), Outcome.FOUND),
        ((failing, good), Outcome.FOUND),
        ((silent, good), Outcome.FOUND),
        ((failing, failing), Outcome.FAILED),
        ((failing, silent), Outcome.FAILED),
        ((silent,), None),
    ],
)
def test_resolvers_asked_in_turn(
    tmp_path: Path, behaviours: tuple[Behaviour, ...], outcome: Outcome | None
) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, *behaviours, options="timeout:1 attempts:1") as (asker, _):
            assert outcome_of(await asker.ask(NAME, TXT)) is outcome

    play(dialogue)


def test_too_long_for_a_datagram_comes_over_tcp(tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, truncating) as (asker, (played,)):
            assert len(await asker.ask(NAME, TXT)) > 3000
            assert played.asked == ["udp", "tcp"]

    play(dialogue)


def test_each_attempt_has_an_identifier_of_its_own(tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, good) as (asker, (played,)):
            await asyncio.gather(*(asker.ask(NAME, TXT) for _ in range(50)))
            assert len(set(played.idents)) > 40

    play(dialogue)


def test_as_many_attempts_as_the_file_says(tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, failing, options="attempts:3") as (asker, (played,)):
            await asker.ask(NAME, TXT)
            assert len(played.asked) == 3

    play(dialogue)


def test_file_that_changes_is_read_again(tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with world(tmp_path, failing, good) as (asker, _):
            (tmp_path / "resolv.conf").write_text(f"nameserver {LOOPBACK}.2\nsearch a.example")
            assert outcome_of(await asker.ask(NAME, TXT)) is Outcome.FOUND
            assert asker.settings().search == ("a.example",)

    play(dialogue)


def test_without_a_file_this_machine_is_asked(tmp_path: Path) -> None:
    assert SystemResolvers(tmp_path / "missing").settings().servers == ("127.0.0.1",)


def test_all_patience_together_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)

    async def dialogue() -> None:
        options = "timeout:30 attempts:5"
        async with world(tmp_path, silent, silent, options=options) as (asker, players):
            start = time.monotonic()
            assert await asker.ask(NAME, TXT) is None
            assert time.monotonic() - start < 10
            assert [len(one.asked) for one in players] == [1, 0]

    play(dialogue)


def test_questions_at_once_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 8)

    async def dialogue() -> None:
        async with world(tmp_path, silent, options="timeout:30") as (asker, (played,)):
            asking = [asyncio.create_task(asker.ask(NAME, TXT)) for _ in range(50)]
            await played.are_eight.wait()
            await asyncio.sleep(0.05)
            assert len(played.asked) == 8
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)

    play(dialogue)
