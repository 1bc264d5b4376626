"""Asking the far end about names: pipelined, asked once more when the channel is lost, bounded.

Equal questions at once are one, and an answer is kept while it may be, in its session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
from dialogues import dialogue

from dns import framing
from dns import response as answer
from dns.codes import ExtendedError, RCode
from dns.message import Query, parse_query
from dns.names import to_wire
from dns.records import Record
from dns.upstream import Answer, Outcome
from vpn.client.names import far_resolver as module
from vpn.client.names.far_resolver import FarResolver
from vpn.protocol.failure import Failure, OpenFailed

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def resolver_at(handler: Handler, *, is_ours: bool = True) -> AsyncIterator[FarResolver]:
    handling: list[asyncio.Task[None]] = []

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.append(asyncio.ensure_future(handler(reader, writer)))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        resolver = FarResolver(lambda: asyncio.open_connection("127.0.0.1", port), is_ours=is_ours)
        yield resolver
        resolver.close()
        await asyncio.sleep(0.01)
        if handling:
            await asyncio.wait(handling, timeout=5)
        await asyncio.sleep(0.01)


async def read_query(reader: asyncio.StreamReader) -> Query:
    length = int.from_bytes(await reader.readexactly(2))
    query = parse_query(await reader.readexactly(length))
    assert isinstance(query, Query)
    return query


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say of names with an `n` that they do not exist, of others that they have no address."""
    try:
        while True:
            query = await read_query(reader)
            built = answer.nx_domain if query.labels[0].startswith(b"n") else answer.no_data
            writer.write(framing.frame(built(query)))
    except asyncio.IncompleteReadError:
        writer.close()


@dialogue(lambda: resolver_at(answer_all))
async def test_questions_at_once_have_their_own_answers(resolver: FarResolver) -> None:
    asked = [f"{'n' if n % 2 else 'x'}{n}.example.com" for n in range(200)]
    found = await asyncio.gather(*(resolver.ask(name, 1) for name in asked))
    assert [each.outcome for each in found] == [
        Outcome.NX_DOMAIN if n % 2 else Outcome.NO_DATA for n in range(200)
    ]


async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    query = await read_query(reader)
    writer.write(framing.frame(answer.nx_domain(query)))
    writer.close()


@dialogue(lambda: resolver_at(answer_one))
async def test_resolver_that_closes_after_each_answer_is_asked_again(
    resolver: FarResolver,
) -> None:
    found = await asyncio.gather(*(resolver.ask(f"n{n}.example.com", 1) for n in range(5)))
    assert {each.outcome for each in found} == {Outcome.NX_DOMAIN}


@pytest.mark.parametrize("is_ours", [False, True])
def test_resolver_that_answers_in_turn_keeps_nobody_waiting_for_long(
    monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """A service of ours answers in any order: of it, nothing is asked twice."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5 if is_ours else 20)
    connections: list[list[bytes]] = []

    async def in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: list[bytes] = []
        connections.append(asked)
        while not reader.at_eof():
            try:
                query = await read_query(reader)
            except asyncio.IncompleteReadError:
                break
            asked.append(query.labels[0])
            if query.labels[0] == b"silent":
                await reader.read()
            writer.write(framing.frame(answer.nx_domain(query)))
        writer.close()

    async def dialogue() -> None:
        async with resolver_at(in_turn, is_ours=is_ours) as resolver:
            silent = asyncio.create_task(resolver.ask("silent.example", 1))
            others = [asyncio.create_task(resolver.ask(f"n{n}.example", 1)) for n in range(9)]
            found = {each.outcome for each in await asyncio.gather(*others)}
            assert found == {Outcome.FAILED if is_ours else Outcome.NX_DOMAIN}
            if is_ours:
                assert (await silent).outcome is Outcome.FAILED
                assert connections == [[b"silent"]]
                return
            before = len(connections)
            monkeypatch.setattr(module, "PATIENCE_S", 20)
            for n in range(9):
                assert (await resolver.ask(f"m{n}.example", 1)).outcome is Outcome.NX_DOMAIN
            assert len(connections) == before + 1
            silent.cancel()

    asyncio.run(dialogue())


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    query = await read_query(reader)
    writer.write(framing.frame(query.id.to_bytes(2) + b"nonsense"))
    await silent(reader, writer)


@dialogue(lambda: resolver_at(silent))
async def test_resolver_that_never_answers_has_failed(
    resolver: FarResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    assert (await resolver.ask("www.example.com", 1)).outcome is Outcome.FAILED


@dialogue(lambda: resolver_at(babbling))
async def test_resolver_that_talks_nonsense_has_failed_at_once(resolver: FarResolver) -> None:
    async with asyncio.timeout(5):
        assert (await resolver.ask("www.example.com", 1)).outcome is Outcome.FAILED


class Channel:
    """One channel, and the peer of it."""

    def __init__(self) -> None:
        self.reader, self.writer = asyncio.StreamReader(), Mock()
        self.channel = module._Channel(self.reader, self.writer)

    @property
    def is_closed(self) -> bool:
        return bool(self.writer.close.called)

    async def asking(self) -> asyncio.Task[Answer]:
        task = asyncio.create_task(self.channel.ask("n.example", 1))
        await asyncio.sleep(0)
        return task

    def answer(self) -> None:
        query = parse_query(self.writer.write.call_args.args[0][2:])
        assert isinstance(query, Query)
        self.reader.feed_data(framing.frame(answer.nx_domain(query)))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def channel() -> AsyncIterator[Channel]:
    yield Channel()


@dialogue(channel)
async def test_channel_that_has_ended_is_closed_and_takes_no_question(peer: Channel) -> None:
    waiting = await peer.asking()
    peer.reader.feed_eof()
    await peer.settle()
    assert peer.is_closed
    for asking in (waiting, await peer.asking()):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(asking, 5)


@dialogue(channel)
async def test_idle_channel_that_ends_is_closed(peer: Channel) -> None:
    peer.reader.feed_eof()
    await peer.settle()
    assert peer.is_closed


@dialogue(channel)
async def test_retired_channel_closes_once_its_questions_are_answered(peer: Channel) -> None:
    waiting = await peer.asking()
    peer.channel.retire()
    assert not peer.is_closed
    peer.answer()
    assert (await waiting).outcome is Outcome.NX_DOMAIN
    assert peer.is_closed


@dialogue(channel)
async def test_idle_channel_closes_when_it_is_retired_and_not_before(peer: Channel) -> None:
    waiting = await peer.asking()
    peer.answer()
    await waiting
    assert not peer.is_closed
    peer.channel.retire()
    await peer.settle()
    assert peer.is_closed
    assert peer.channel._reading.done()


@dialogue(channel)
async def test_answer_that_comes_twice_or_too_late_changes_nothing(peer: Channel) -> None:
    waiting, late = await peer.asking(), await peer.asking()
    late.cancel()
    peer.answer()
    peer.answer()
    await peer.settle()
    peer.answer()
    await peer.settle()
    again = await peer.asking()
    peer.answer()
    peer.answer()
    assert (await again).outcome is Outcome.NX_DOMAIN
    assert not waiting.done()
    assert not peer.is_closed
    waiting.cancel()


@dialogue(lambda: resolver_at(silent))
async def test_closed_while_waiting_there_is_no_answer(resolver: FarResolver) -> None:
    asking = asyncio.create_task(resolver.ask("www.example.com", 1))
    await asyncio.sleep(0.05)
    resolver.close()
    async with asyncio.timeout(5):
        await asyncio.wait([asking])
    assert asking.cancelled()


def test_resolver_that_cannot_be_reached_has_failed() -> None:
    async def refuse() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise OpenFailed(Failure.ECONNREFUSED)

    async def dialogue() -> None:
        assert (await FarResolver(refuse).ask("x.example", 1)).outcome is Outcome.FAILED

    asyncio.run(dialogue())


def test_question_that_outlives_the_session_says_that_nobody_could_be_asked() -> None:
    """The channel is reset with the question in it, and there is no session for another."""
    is_away = False

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_away
        await read_query(reader)
        is_away = True
        writer.transport.abort()

    async def dialogue() -> None:
        server = await asyncio.start_server(reset, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            if is_away:
                raise OpenFailed(Failure.UNAVAILABLE, "there is no session now")
            return await asyncio.open_connection("127.0.0.1", port)

        async with server:
            resolver = FarResolver(connect)
            assert (await resolver.ask("x.example", 1)).outcome is Outcome.UNREACHABLE

    asyncio.run(dialogue())


class Counting:
    """A resolver that counts its questions; names that begin with `k` may be kept."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                query = await read_query(reader)
                self.asked.append(query.labels[0])
                await self.gate.wait()
                writer.write(framing.frame(self.answer(query)))
        except asyncio.IncompleteReadError:
            writer.close()

    @staticmethod
    def answer(query: Query) -> bytes:
        if query.labels[0] == b"search":
            data = b"\x0ccorp.example\x03com\x09x.onion.\0"
        elif query.labels[0].startswith(b"k"):
            data = b"\4kept"
        else:
            return answer.error(query, RCode.SERVFAIL, ExtendedError.OTHER, "no")
        record = Record(to_wire(query.labels), query.qtype, 1, 60, data)
        return answer.far(query, Answer(Outcome.FOUND, 60, (record,)), over_tcp=True)


def test_equal_questions_at_once_are_one() -> None:
    async def dialogue() -> None:
        counting = Counting()
        counting.gate.clear()
        async with resolver_at(counting) as resolver:
            asking = [asyncio.create_task(resolver.ask("f.example", 16)) for _ in range(50)]
            other = asyncio.create_task(resolver.ask("f.example", 15))
            await asyncio.sleep(0)
            asking.pop().cancel()
            counting.gate.set()
            assert {each.outcome for each in await asyncio.gather(*asking, other)} == {
                Outcome.FAILED
            }
            assert counting.asked == [b"f", b"f"]
            await resolver.ask("f.example", 16)
            assert len(counting.asked) == 3

    asyncio.run(dialogue())


def test_answer_is_kept_until_the_session_ends() -> None:
    async def dialogue() -> None:
        counting = Counting()
        async with resolver_at(counting) as resolver:
            assert resolver.cached_for("k.example", 16) is None
            first = await resolver.ask("k.example", 16)
            assert await resolver.ask("k.example", 16) == first
            assert (len(counting.asked), resolver.cached) == (1, 1)
            assert resolver.cached_for("k.example", 16) == (0, 60)
            resolver.forget()
            await resolver.ask("k.example", 16)
            assert len(counting.asked) == 2

    asyncio.run(dialogue())


@dialogue(lambda: resolver_at(Counting()))
async def test_search_domains_are_asked_for_and_judged(resolver: FarResolver) -> None:
    assert await resolver.search_domains() == ("corp.example",)


@dialogue(lambda: resolver_at(silent))
async def test_search_domains_that_take_too_long_are_none(
    resolver: FarResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEARCH_TIMEOUT_S", 0.05)
    assert await resolver.search_domains() == ()


def test_search_domains_are_asked_of_nobody_else() -> None:
    async def refuse() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise AssertionError("asked")

    assert asyncio.run(FarResolver(refuse).search_domains()) == ()


def test_text_that_is_no_name_is_not_asked() -> None:
    async def dialogue() -> None:
        counting = Counting()
        async with resolver_at(counting) as resolver:
            with pytest.raises(ValueError):
                await resolver.ask("a..b", 16)
            assert counting.asked == []

    asyncio.run(dialogue())
