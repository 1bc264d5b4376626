"""Asks the far end about names: DNS over one channel, as many questions at once as come.

The peer is a resolver behind the tunnel: a service of our own server, or the address of one that
a plain sshd can reach. The channel is opened when it is needed and again when it was lost. A
resolver may close it with questions unanswered (RFC 7766 §6.2.4), and simple ones do after each
answer: such a question is asked once more, on a channel of its own. One that gets no answer in
time has failed, which the application sees as SERVFAIL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from dns import framing, upstream
from shim.protocol.gate import Lookup, Outcome
from vpn.ssh.failure import Failure, OpenFailed

TIMEOUT_S: Final = 10.0

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a channel to the resolver. Raises OpenFailed."""


class FarResolver:
    """Asks for existence only: addresses of the far end mean nothing here."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._stream: _Stream | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, question: Lookup) -> Outcome:
        """Return what the far end knows."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._ask(question)
        except OpenFailed as error:
            is_away = error.failure is Failure.UNAVAILABLE
            return Outcome.UNREACHABLE if is_away else Outcome.FAILED
        except (OSError, TimeoutError):
            return Outcome.FAILED
        return Outcome[found.name]

    def close(self) -> None:
        """Close the channel; what waits has failed."""
        if self._stream is not None:
            self._stream.close()

    async def _ask(self, question: Lookup) -> upstream.Outcome:
        try:
            shared = await self._connected()
            return await shared.ask(question.name, question.rtype)
        except ConnectionResetError:
            own = _Stream(*await self._connect())
            try:
                return await own.ask(question.name, question.rtype)
            finally:
                own.close()

    async def _connected(self) -> _Stream:
        async with self._connecting:
            if self._stream is None or self._stream.is_lost:
                self._stream = _Stream(*await self._connect())
            return self._stream


class _Stream:
    """One channel to the resolver (RFC 7766): answers may come in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, tuple[str, int, asyncio.Future[upstream.Outcome]]] = {}
        self._next = 0
        self.is_lost = False
        self._reading = asyncio.create_task(self._read(reader))

    async def ask(self, name: str, rtype: int) -> upstream.Outcome:
        """Return what the peer answers. Raises ConnectionResetError when it is gone."""
        if self.is_lost or len(self._waiting) > 0xFFFF:
            raise ConnectionResetError
        ident = self._free_ident()
        future: asyncio.Future[upstream.Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = (name, rtype, future)
        self._writer.write(framing.frame(upstream.build_query(ident, name, rtype)))
        try:
            return await future
        finally:
            self._waiting.pop(ident, None)

    def close(self) -> None:
        """Close the channel."""
        self._reading.cancel()
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        stream = framing.Framing()
        try:
            while data := await reader.read(65536):
                for message in stream.feed(data):
                    self._on_message(message)
        except (OSError, ValueError):
            pass
        finally:
            self.is_lost = True
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
            future.set_result(upstream.read_outcome(message, ident, name, rtype))

    def _free_ident(self) -> int:
        # The channel is authenticated and ordered: the identifier needs no randomness.
        while True:
            self._next = (self._next + 1) & 0xFFFF
            if self._next not in self._waiting:
                return self._next
