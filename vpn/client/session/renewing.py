"""The session of a client as seen by those who open flows in it, across its renewals.

Theory of operation
-------------------
While there is a session, flows are opened in it. While there is none, whatever would need one fails
at once with `UNAVAILABLE`, so that an application is told "network unreachable" instead of being
left waiting. Flows of a session that ends are reset by the session itself, and nothing of them is
carried over to the next one: they were connections of the far end, and those are gone.

`keep` drives the renewal: it waits for the end of the session, makes a new one when that is due
(`backoff.Schedule`), and watches the network for changes. It reports what happens to the state
machine (`state.py`), which knows when the next attempt is due. While there is a session, a change
of the network only makes it ask the server for a sign of life sooner.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import NoReturn

from vpn.client.session import state as states
from vpn.client.session.backoff import is_fatal
from vpn.client.session.state import SessionState
from vpn.errors import OverlayError
from vpn.linux.network_changes import Changes
from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.session.client import Session
from vpn.transport.pump import Pump

Connect = Callable[[], Awaitable[Session]]
"""Makes a new session. Raises OverlayError; cancelled, it leaves nothing."""


class Uplink:
    """Renews a session, and opens flows in the current one."""

    def __init__(
        self,
        session: Session,
        connect: Connect,
        state: SessionState,
        report: Callable[[states.Event], object],
    ) -> None:
        """`report` is given what happens, and takes it to `state`."""
        self._session: Session | None = session
        self._connect = connect
        self._state = state
        self._report = report
        self._woken = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.is_overlay_server = session.is_overlay_server
        self._report(states.Fact.CONNECTED)

    @property
    def is_up(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    @property
    def retry_in_s(self) -> int:
        """Seconds until the next attempt; 0 during one, and while there is a session."""
        return self._state.retry_in_s(time.monotonic())

    @property
    def last_error(self) -> str:
        """Why there is no session; empty while there is one."""
        return self._state.last_error

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a session has ended, before the next one is used."""
        self._listeners.append(listener)

    async def open(self, host: str, port: int) -> Pump:
        """Open a flow; see `Session.open`. Raises OpenFailed."""
        return await self._current().open(host, port)

    async def open_stream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a flow as a pair of streams; see `Session.open_stream`. Raises OpenFailed."""
        return await self._current().open_stream(host, port)

    @property
    def has_datagrams(self) -> bool:
        """Whether the session carries datagrams next to its stream."""
        return self._session is not None and self._session.has_datagrams

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Connect a protocol to a service of our server. Raises OpenFailed.

        Another server has none, and is not asked.
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
            self._report(states.NetworkUnwatched(error.strerror or str(error)))
        try:
            while True:
                session = self._current()
                await asyncio.wait({session.closed})
                self._on_lost(session.closed.result())
                self._session = await self._reconnect()
                self._report(states.Fact.CONNECTED)
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
        self._report(states.Lost(why, random.random()))

    def _on_change(self) -> None:
        if self._session is not None:
            self._session.hurry()
        self._report(states.Fact.NETWORK_CHANGED)
        self._woken.set()

    async def _reconnect(self) -> Session:
        """Try until there is a session. Raises OverlayError when trying again is in vain."""
        while True:
            await self._wait()
            self._report(states.Fact.ATTEMPT_BEGAN)
            attempt = asyncio.ensure_future(self._connect())
            attempt.add_done_callback(lambda _: self._woken.set())
            why = ""
            try:
                await self._wait(attempt)
                if attempt.done():
                    return attempt.result()
            except OverlayError as error:
                if is_fatal(error):
                    raise
                why = str(error)
            finally:
                if attempt.cancel():
                    await asyncio.wait({attempt})
            self._report(states.AttemptFailed(why, random.random()))

    async def _wait(self, attempt: asyncio.Future[Session] | None = None) -> None:
        """Wait until the attempt is done, or the next one is due."""
        while attempt is None or not attempt.done():
            left_s = self._state.due - time.monotonic()
            if left_s <= 0:
                return
            self._woken.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), None if left_s == inf else left_s)
