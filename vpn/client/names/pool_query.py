"""Questions to the gate about its pool of virtual addresses, for `overlay-vpn dns`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shim.protocol.gate import PoolState, PoolWanted
from shim.protocol.link import Message

TIMEOUT_S: Final = 3.0


class PoolQuestions:
    """Asks the running gate, which may be gone before it answers."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._next = 0
        self._waiting: dict[int, asyncio.Future[PoolState]] = {}

    async def ask(self, host: str = "") -> PoolState | None:
        """Return the state of the pool, with what it has for a name or address.

        None if the gate does not answer in `TIMEOUT_S`.
        """
        number = self._next = self._next + 1
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send(PoolWanted(number, host))
        try:
            return await asyncio.wait_for(future, TIMEOUT_S)
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def on_state(self, message: PoolState) -> None:
        """The gate has answered a question, which may be over."""
        waiting = self._waiting.get(message.query)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
