"""Answers whoever connects to a local listener, each in a task of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from vpn.client.questions import MAX_QUESTION, TIMEOUT_S

_AGAIN_S: Final = 0.1


class Answering:
    """Serves a listener. `answer` is given each connection, which is closed after it."""

    def __init__(
        self, listener: socket.socket, answer: Callable[[socket.socket], Awaitable[None]]
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left; who asks waits until there is one
                await asyncio.sleep(_AGAIN_S)
                continue
            task = asyncio.create_task(self._serve_one(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Let the answers that are under way go out."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _serve_one(self, sock: socket.socket) -> None:
        with sock, suppress(OSError, TimeoutError):
            await self._answer(sock)


async def question_of(sock: socket.socket) -> bytes:
    """Return what is asked on a new connection; empty at its end. Raises OSError, TimeoutError."""
    async with asyncio.timeout(TIMEOUT_S):
        return await asyncio.get_running_loop().sock_recv(sock, MAX_QUESTION)
