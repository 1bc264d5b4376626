"""The client of the far end's resolver: DNS over one channel, pipelined, with a cache.

The peer is a resolver behind the tunnel: the service of our own server, or the address of one that
a plain sshd can reach. The channel is opened when it is needed, and again after it was lost. A
resolver may close it with questions unanswered (RFC 7766 §6.2.4), and simple ones do after each
answer: such a question is retried once, on a private channel. After `PATIENCE_S`, so is any other:
some resolvers answer a connection strictly in order, so that one slow name holds up the rest. The
channel that kept it waiting then takes no more questions. Our own server answers in any order and
needs no such retry.

A question without an answer in `TIMEOUT_S` has failed, which the application sees as SERVFAIL.
Equal questions at the same time are sent once. Answers are cached (`dns.cache`) for as long as they
allow, and no longer than the session that brought them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from dns import search
from dns.cache import Cache, Key
from dns.codes import RRType
from dns.pipeline import Pipeline
from dns.upstream import FAILED, Answer, Outcome, build_query
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.services import SEARCH

TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 1.0
SEARCH_TIMEOUT_S: Final = 2.0

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a channel to the resolver. Raises OpenFailed."""


class FarResolver:
    """Answers from the far end. `is_ours`: its resolver is the service of our own server."""

    def __init__(self, connect: Connect, *, is_ours: bool = False) -> None:
        self._connect = connect
        self._is_ours = is_ours
        self._channel: _Channel | None = None
        self._connecting = asyncio.Lock()
        self._asking: dict[Key, asyncio.Task[Answer]] = {}
        self._cache = Cache()
        self.hits = 0
        """How many questions were answered from the cache."""

    async def ask(self, name: str, rtype: int) -> Answer:
        """Return the answer of the far end. `name` is in lower case.

        Raises ValueError if it is no name. Cancelling a caller does not cancel the question.
        """
        key = name, rtype
        kept = self._cache.get(key, time.monotonic())
        if kept is not None:
            self.hits += 1
            return kept
        asking = self._asking.get(key)
        if asking is None:
            build_query(0, name, rtype)
            asking = self._asking[key] = asyncio.create_task(self._ask(key))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    def cached_for(self, name: str, rtype: int) -> tuple[int, int] | None:
        """Return the age of a cached answer and the time that it has left, in seconds.

        None if it is not cached: the far end would be asked.
        """
        return self._cache.age((name, rtype), time.monotonic())

    @property
    def cached(self) -> int:
        """The number of cached answers."""
        return len(self._cache)

    async def search_domains(self) -> tuple[str, ...]:
        """Return the search domains of the far end (resolv.conf(5)), none if it is too slow.

        Only a server of ours is asked.
        """
        if not self._is_ours:
            return ()
        with suppress(TimeoutError):
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                answer = await self.ask(SEARCH, RRType.TXT)
                return search.read(record.data for record in answer.records)
        return ()

    def forget(self) -> None:
        """Empty the cache: the session that brought its answers has ended."""
        self._cache.clear()

    def close(self) -> None:
        """Close the channel; questions that wait have failed."""
        for asking in list(self._asking.values()):
            asking.cancel()
        if self._channel is not None:
            self._channel.close()

    async def _ask(self, key: Key) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._ask_twice(*key)
        except OpenFailed as error:
            is_away = error.failure is Failure.UNAVAILABLE
            return Answer(Outcome.UNREACHABLE) if is_away else FAILED
        except (OSError, TimeoutError):
            return FAILED
        self._cache.put(key, answer, time.monotonic())
        return answer

    async def _ask_twice(self, name: str, rtype: int) -> Answer:
        shared = await self._connected()
        try:
            async with asyncio.timeout(None if self._is_ours else PATIENCE_S):
                return await shared.ask(name, rtype)
        except (ConnectionResetError, TimeoutError):
            shared.retire()
        own = _Channel(*await self._connect())
        try:
            return await own.ask(name, rtype)
        finally:
            own.close()

    async def _connected(self) -> _Channel:
        async with self._connecting:
            if self._channel is None or self._channel.is_retired:
                self._channel = _Channel(*await self._connect())
            return self._channel


class _Channel:
    """One channel to the resolver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._pipeline = Pipeline()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self.is_retired = False
        self._reading = asyncio.create_task(self._read(reader))

    async def ask(self, name: str, rtype: int) -> Answer:
        """Return the answer of the peer. Raises ConnectionResetError if it takes no more."""
        if self.is_retired or self._pipeline.is_full:
            raise ConnectionResetError
        ident, octets = self._pipeline.ask(name, rtype)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = answered
        self._writer.write(octets)
        try:
            return await answered
        finally:
            del self._waiting[ident]
            self._pipeline.drop(ident)
            self._close_if_done()

    def retire(self) -> None:
        """Take no more questions, and close once the others are answered."""
        self.is_retired = True
        self._close_if_done()

    def close(self) -> None:
        """Close the channel."""
        self._reading.cancel()
        self._writer.close()

    def _close_if_done(self) -> None:
        if self.is_retired and not self._waiting:
            self.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while octets := await reader.read(65536):
                for ident, answer in self._pipeline.on_octets(octets):
                    if not self._waiting[ident].done():
                        self._waiting[ident].set_result(answer)
        except OSError:
            pass
        finally:
            self.is_retired = True
            self._writer.close()
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_exception(ConnectionResetError())
