"""In-memory ends for the tests of a client: a session, its connector, a gate, and virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import pytest
from dialogues import TIMEOUT_S

from shim.protocol.gate import CLIENT_OF_GATE, GATE, Configure, Configured
from shim.protocol.handover import adopt, pair
from shim.protocol.link import Link, LinkClosedError, Message
from vpn.errors import AuthenticationError
from vpn.ssh.open_failure import Failure, OpenFailed
from vpn.ssh.session.client import Session
from vpn.transport.pump import Pump

M = TypeVar("M", bound=Message)


class FakeSession:
    """A session that opens everything, or refuses it with `failure`, or never answers."""

    has_datagrams = False

    def __init__(self, *, is_overlay_server: bool = True) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_overlay_server = is_overlay_server
        self.failure: Failure | None = None
        self.is_silent = False
        self.opened: list[tuple[str, int]] = []
        self.pumps: list[Pump] = []
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def open(self, host: str, port: int) -> Pump:
        await self._opening(host, port)
        self.pumps.append(Pump())
        return self.pumps[-1]

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        await self._opening(host, port)

    async def open_stream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self._opening(host, port)
        raise OpenFailed(Failure.ECONNREFUSED)

    async def _opening(self, host: str, port: int) -> None:
        self.opened.append((host, port))
        if self.is_silent:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise OpenFailed(self.failure)

    def hurry(self) -> None:
        """Say nothing."""

    async def close(self) -> None:
        await self.may_close.wait()
        if not self.closed.done():
            self.closed.set_result("closed")


class FakeConnector:
    """Makes a session whenever it may, or raises `error`. Counts."""

    def __init__(self, *, is_overlay_server: bool = True) -> None:
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.error: Exception | None = None
        self.sessions: list[FakeSession] = []
        self.given_up = 0
        self.is_closed = False
        self._is_overlay_server = is_overlay_server

    async def connect(self) -> Session:
        try:
            await self.may_connect.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error
        self.sessions.append(FakeSession(is_overlay_server=self._is_overlay_server))
        return cast(Session, self.sessions[-1])

    def lose_for_good(self) -> None:
        """Lose the session, and make no other: nobody is let in any more."""
        self.error = AuthenticationError("the key is no longer accepted")
        self.sessions[0].closed.set_result("gone")

    async def close(self) -> None:
        self.is_closed = True


async def received(link: Link, kind: type[M]) -> tuple[M, list[int]]:
    """Return the next message of a link, which is of this kind, and its descriptors."""
    async with asyncio.timeout(TIMEOUT_S):
        while (one := link.receive()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    message, fds = one
    assert isinstance(message, kind), message
    return message, fds


class Serving(Protocol):
    """A client that comes up, and serves until its end."""

    async def serve(self) -> None: ...


def started(client: Serving) -> asyncio.Task[None]:
    """A client that begins as soon as the test has set its scene."""

    async def serve() -> None:
        await asyncio.sleep(0)
        await client.serve()

    return asyncio.create_task(serve())


@contextmanager
def no_wait_between_tries() -> Iterator[None]:
    """Have a session that is lost tried again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpn.client.session.renewing.random.random", lambda: 0.0)
        yield


class FakeGate:
    """The gate's end of a link: what the client says is taken from it one by one."""

    def __init__(self) -> None:
        self.link, self._ours = pair(CLIENT_OF_GATE, GATE)
        self.datagrams: Link | None = None

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        assert self._ours.send(message, fds)

    async def next(self, kind: type[M], link: Link | None = None) -> tuple[M, list[int]]:
        """Return the next message, which is of this kind, and its descriptors."""
        return await received(link or self._ours, kind)

    async def configured(self, role: Any) -> Configure:
        """Be configured, and take over the link for datagrams, of which this end has a role."""
        message, (fd,) = await self.next(Configure)
        self.datagrams = adopt(fd, role)
        self.send(Configured())
        return message

    async def says_nothing(self) -> bool:
        """Whether the client says nothing for a moment."""
        await asyncio.sleep(0.02)
        return self._ours.receive() is None

    def close(self) -> None:
        self._ours.close()
        if self.datagrams is not None:
            self.datagrams.close()


def has_ended(link: Link) -> bool:
    """Whether the other end of a link is closed; what it has said is dropped."""
    try:
        while link.receive() is not None:
            pass
    except LinkClosedError:
        return True
    return False


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1000.0
        selector = cast(Any, self)._selector
        select_really = selector.select

        def select(timeout_s: float | None = None) -> Any:
            ready = select_really(0 if timeout_s is not None else None)
            if not ready and timeout_s:
                self._now_s += timeout_s
            return ready

        selector.select = select

    def time(self) -> float:
        return self._now_s
