"""Asking the far end about names: pipelined, asked once more when the channel is lost, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dns import answer, framing
from dns.message import Query, parse_query
from shim.protocol.gate import Lookup, Outcome
from vpn.client import resolver as module
from vpn.client.resolver import FarResolver
from vpn.ssh.failure import Failure, OpenFailed

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def resolver_at(handler: Handler) -> AsyncIterator[FarResolver]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        resolver = FarResolver(lambda: asyncio.open_connection("127.0.0.1", port))
        yield resolver
        resolver.close()
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


def test_questions_at_once_have_their_own_answers() -> None:
    async def dialogue() -> None:
        async with resolver_at(answer_all) as resolver:
            asked = [Lookup(n, f"{'n' if n % 2 else 'x'}{n}.example.com", 1) for n in range(200)]
            found = await asyncio.gather(*map(resolver.ask, asked))
            assert found == [Outcome.NX_DOMAIN if n % 2 else Outcome.NO_DATA for n in range(200)]

    asyncio.run(dialogue())


def test_resolver_that_closes_after_each_answer_is_asked_again() -> None:
    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await read_query(reader)
        writer.write(framing.frame(answer.nx_domain(query)))
        writer.close()

    async def dialogue() -> None:
        async with resolver_at(answer_one) as resolver:
            asked = [Lookup(n, f"n{n}.example.com", 1) for n in range(5)]
            assert set(await asyncio.gather(*map(resolver.ask, asked))) == {Outcome.NX_DOMAIN}

    asyncio.run(dialogue())


def test_resolver_that_never_answers_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def dialogue() -> None:
        async with resolver_at(silent) as resolver:
            assert await resolver.ask(Lookup(1, "www.example.com", 1)) is Outcome.FAILED

    asyncio.run(dialogue())


def test_resolver_that_talks_nonsense_has_failed() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await read_query(reader)
        writer.write(framing.frame(query.id.to_bytes(2) + b"nonsense"))
        await reader.read()
        writer.close()

    async def dialogue() -> None:
        async with resolver_at(babble) as resolver:
            assert await resolver.ask(Lookup(1, "www.example.com", 1)) is Outcome.FAILED

    asyncio.run(dialogue())


def test_resolver_that_cannot_be_reached_has_failed() -> None:
    async def refuse() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise OpenFailed(Failure.ECONNREFUSED)

    async def dialogue() -> None:
        assert await FarResolver(refuse).ask(Lookup(1, "x.example", 1)) is Outcome.FAILED

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
            assert await resolver.ask(Lookup(1, "x.example", 1)) is Outcome.UNREACHABLE

    asyncio.run(dialogue())
