"""The session as those see it who open flows in it: there, away for a while, there again.

Theory of operation
-------------------
While a session is there, it is asked. While there is none, whatever would need one fails at once
with `UNAVAILABLE`, so that an application is told "network unreachable" instead of being left
waiting. Flows of a session that ends are reset by the session itself, and nothing of them is
carried over to the next one: they were connections of the far end, and those are gone.

`keep` is the driver of the pure `reconnect.Schedule`: it waits for the end of the session, tries
for a new one when that is due, and looks after changes of the network. While there is a session, a
change only makes it ask the server for a sign of life sooner.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import ceil, inf
from typing import NoReturn

from vpn.client.session.backoff import Schedule, is_fatal
from vpn.errors import OverlayError
from vpn.linux.network_changes import Changes
from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.session.client import Session
from vpn.transport.pump import Pump

Connect = Callable[[], Awaitable[Session]]
"""Makes a new session. Raises OverlayError; cancelled, it leaves nothing."""


class Uplink:
    """Renews a session, and opens flows in the one of the moment."""

    def __init__(self, session: Session, connect: Connect, say: Callable[[str], None]) -> None:
        """`say` gets a line for people when the session is lost, and when there is a new one."""
        self._session: Session | None = session
        self._connect = connect
        self._say = say
        self._schedule = Schedule(time.monotonic())
        self._woken = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.is_overlay_server = session.is_overlay_server
        self.last_error = ""
        """Why there is no session; empty while there is one."""

    @property
    def is_up(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    @property
    def attempts(self) -> int:
        """How often a new session has been tried for since the last one was lost."""
        return self._schedule.attempts

    @property
    def retry_in_s(self) -> int:
        """Seconds until the next try; 0 while one is running, and while there is a session."""
        due = self._schedule.due
        return 0 if due == inf else max(0, ceil(due - time.monotonic()))

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a session has ended, before anybody gets the next one."""
        self._listeners.append(listener)

    async def open(self, host: str, port: int) -> Pump:
        """Open a flow; see `Session.open`. Raises OpenFailed."""
        return await self._current().open(host, port)

    async def open_stream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream that we talk to ourselves; see `Session.open_stream`. Raises OpenFailed."""
        return await self._current().open_stream(host, port)

    @property
    def has_datagrams(self) -> bool:
        """Whether the session has datagrams beside its stream."""
        return self._session is not None and self._session.has_datagrams

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Have a protocol of ours talk to a service of our own server. Raises OpenFailed.

        Another server, which has none, is not asked.
        """
        session = self._current()
        if not self.is_overlay_server:
            raise OpenFailed(Failure.UNSUPPORTED)
        await session.open_service(host, port, protocol)

    async def close(self) -> None:
        """End the session, if there is one."""
        if self._session is not None:
            await self._session.close()

    async def keep(self) -> NoReturn:
        """Renew the session whenever it has ended, until cancelled.

        Raises OverlayError when trying again would be in vain.
        """
        changes: Changes | None = None
        try:
            changes = Changes(self._on_change)
        except OSError as error:
            self._say(f"changes of the network are not noticed: {error.strerror}")
        try:
            while True:
                session = self._current()
                await asyncio.wait({session.closed})
                self._on_lost(session.closed.result())
                self._session = await self._reconnect()
                self._on_connected()
        finally:
            if changes is not None:
                changes.close()

    def _current(self) -> Session:
        if self._session is None:
            raise OpenFailed(Failure.UNAVAILABLE, "there is no session now")
        return self._session

    def _on_lost(self, why: str) -> None:
        self._session = None
        for listener in self._listeners:
            listener()
        self.last_error = why
        self._schedule.on_lost(time.monotonic(), random.random())
        self._say(f"the session ended: {why}; reconnecting")

    def _on_connected(self) -> None:
        self.last_error = ""
        self._schedule.on_connected(time.monotonic())
        self._say("connected again")

    def _on_change(self) -> None:
        if self._session is not None:
            self._session.hurry()
        self._schedule.on_change(time.monotonic())
        self._woken.set()

    async def _reconnect(self) -> Session:
        """Try until there is a session. Raises OverlayError when that is in vain."""
        while True:
            await self._wait()
            self._schedule.on_try(time.monotonic())
            attempt = asyncio.ensure_future(self._connect())
            attempt.add_done_callback(lambda _: self._woken.set())
            try:
                await self._wait(attempt)
                if attempt.done():
                    return attempt.result()
            except OverlayError as error:
                if is_fatal(error):
                    raise
                self.last_error = str(error)
            finally:
                if attempt.cancel():
                    await asyncio.wait({attempt})
            self._schedule.on_failed(time.monotonic(), random.random())

    async def _wait(self, attempt: asyncio.Future[Session] | None = None) -> None:
        """Wait until the attempt is done, or the next one is due."""
        while attempt is None or not attempt.done():
            left_s = self._schedule.due - time.monotonic()
            if left_s <= 0:
                return
            self._woken.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), None if left_s == inf else left_s)
