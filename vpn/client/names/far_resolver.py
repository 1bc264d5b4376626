"""Asks the far end about names: DNS over one channel, as many questions at once as come.

The peer is a resolver behind the tunnel: a service of our own server, or the address of one that
a plain sshd can reach. The channel is opened when it is needed and again when it was lost. A
resolver may close it with questions unanswered (RFC 7766 §6.2.4), and simple ones do after each
answer: such a question is asked once more, on a channel of its own. So is, after `PATIENCE_S`, one
that may only be waiting behind another: unlike our server, there are resolvers that answer what
comes over one connection in turn, and the channel that kept it waiting takes no more questions.
One that gets no answer in time has failed, which the application sees as SERVFAIL.

Equal questions at once are one question at the far end. Its answers are kept while they may be
(`dns.cache`), and for no longer than the session that brought them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from dns import framing, search
from dns.cache import Cache, Key
from dns.codes import RRType
from dns.upstream import FAILED, Answer, Outcome, build_query, read_answer
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.services import SEARCH

TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 1.0
SEARCH_TIMEOUT_S: Final = 2.0

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a channel to the resolver. Raises OpenFailed."""


class FarResolver:
    """Answers from the far end. `is_ours` says that it is a service of our own server."""

    def __init__(self, connect: Connect, *, is_ours: bool = False) -> None:
        self._connect = connect
        self._is_ours = is_ours
        self._stream: _Stream | None = None
        self._connecting = asyncio.Lock()
        self._asking: dict[Key, asyncio.Task[Answer]] = {}
        self._cache = Cache()
        self.hits = 0
        """How many questions were answered without asking anybody."""

    async def ask(self, name: str, rtype: int) -> Answer:
        """Return what the far end knows. `name` is in lower case. Raises ValueError if it is none.

        Who is no longer interested can be cancelled; the question is not.
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
        """Return for how many seconds an answer has been kept, and for how many it still is.

        None if it is not: then the far end would be asked.
        """
        return self._cache.age((name, rtype), time.monotonic())

    @property
    def cached(self) -> int:
        """How many answers are kept."""
        return len(self._cache)

    async def search_domains(self) -> tuple[str, ...]:
        """Return where the far end looks for short names; nothing, if it does not say so in time.

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
        """Keep no answer: the session that brought them has ended."""
        self._cache.clear()

    def close(self) -> None:
        """Close the channel; what waits has failed."""
        for asking in list(self._asking.values()):
            asking.cancel()
        if self._stream is not None:
            self._stream.close()

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
        own = _Stream(*await self._connect())
        try:
            return await own.ask(name, rtype)
        finally:
            own.close()

    async def _connected(self) -> _Stream:
        async with self._connecting:
            if self._stream is None or self._stream.is_retired:
                self._stream = _Stream(*await self._connect())
            return self._stream


class _Stream:
    """One channel to the resolver (RFC 7766): answers may come in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, tuple[str, int, asyncio.Future[Answer]]] = {}
        self._next = 0
        self.is_retired = False
        self._reading = asyncio.create_task(self._read(reader))

    async def ask(self, name: str, rtype: int) -> Answer:
        """Return what the peer answers. Raises ConnectionResetError if it takes no more."""
        if self.is_retired or len(self._waiting) > 0xFFFF:
            raise ConnectionResetError
        ident = self._free_ident()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = (name, rtype, future)
        self._writer.write(framing.frame(build_query(ident, name, rtype)))
        try:
            return await future
        finally:
            self._waiting.pop(ident, None)
            self._close_if_done()

    def retire(self) -> None:
        """Take no more questions, and close when the others are answered."""
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
        stream = framing.Framing()
        try:
            while data := await reader.read(65536):
                for message in stream.feed(data):
                    self._on_message(message)
        except (OSError, ValueError):
            pass
        finally:
            self.is_retired = True
            self._writer.close()
            for _, _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError())

    def _on_message(self, message: bytes) -> None:
        ident = int.from_bytes(message[:2])
        waiting = self._waiting.get(ident)
        if waiting is None:
            return
        name, rtype, future = waiting
        if not future.done():
            future.set_result(read_answer(message, ident, name, rtype))

    def _free_ident(self) -> int:
        # The channel is authenticated and ordered: the identifier needs no randomness.
        while True:
            self._next = (self._next + 1) & 0xFFFF
            if self._next not in self._waiting:
                return self._next
