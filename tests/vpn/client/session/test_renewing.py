"""The session that comes and goes: renewed by itself, and honest while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from vpn.client.session import renewing as module
from vpn.client.session.renewing import Uplink
from vpn.client.session.state import Event, Fact, Say, SessionState
from vpn.errors import AuthenticationError, OverlayError, TransportError
from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.session.client import Session
from vpn.transport.pump import Pump


class FakeSession:
    """Opens everything while it is there."""

    is_overlay_server = True

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.opened: list[str] = []
        self.hurries = 0

    async def open(self, host: str, port: int) -> Pump:
        self.opened.append(host)
        return Pump()

    has_datagrams = False

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        self.opened.append(host)

    def hurry(self) -> None:
        self.hurries += 1

    async def close(self) -> None:
        if not self.closed.done():
            self.closed.set_result("closed")


class Network:
    """What a try meets: a session, an error, or no answer at all. Counts them."""

    def __init__(self) -> None:
        self.answer: OverlayError | None = None
        self.is_silent = False
        self.tries = 0
        self.given_up = 0
        self.tried = asyncio.Event()
        self.sessions: list[FakeSession] = []
        self.state: SessionState

    async def connect(self) -> Session:
        self.tries += 1
        self.tried.set()
        if self.is_silent:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up += 1
        if self.answer is not None:
            raise self.answer
        self.sessions.append(FakeSession())
        return cast(Session, self.sessions[-1])


@asynccontextmanager
async def kept() -> AsyncIterator[tuple[Uplink, Network, asyncio.Task[Any], list[str]]]:
    network, said = Network(), list[str]()
    state = SessionState(time.monotonic())

    def report(event: Event) -> None:
        orders = state.on(event, time.monotonic())
        said.extend(order.line for order in orders if isinstance(order, Say))

    uplink = Uplink(await network.connect(), network.connect, state, report)
    network.state = state
    state.on(Fact.CAPTURED, time.monotonic())
    keeping = asyncio.create_task(uplink.keep())
    await asyncio.sleep(0)
    try:
        yield uplink, network, keeping, said
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError, OverlayError):
            await keeping


Dialogue = Callable[[], Awaitable[None]]


def play(dialogue: Dialogue) -> None:
    async def act() -> None:
        await asyncio.wait_for(dialogue(), 20)

    asyncio.run(act())


async def until(condition: Callable[[], object]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "random", lambda: 0.001)


@pytest.fixture
def waits_are_long(monkeypatch: pytest.MonkeyPatch, waits_are_short: None) -> None:
    monkeypatch.setattr(module.random, "random", lambda: 0.999)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns what the network calls when it has changed."""
    listeners: list[Callable[[], None]] = []

    class Changes:
        def __init__(self, on_change: Callable[[], None]) -> None:
            listeners.append(on_change)

        def close(self) -> None:
            listeners.clear()

    monkeypatch.setattr(module, "Changes", Changes)
    return lambda: listeners[0]()


def test_lost_session_is_renewed_and_flows_go_through_the_new_one() -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, _, said):
            await uplink.open("before.example", 80)
            network.sessions[0].closed.set_result("the server closed the session")
            await until(lambda: len(network.sessions) == 2 and uplink.is_up)
            await uplink.open("after.example", 80)
            assert [one.opened for one in network.sessions] == [
                ["before.example"],
                ["after.example"],
            ]
            assert (network.state.attempts, uplink.last_error, uplink.retry_in_s) == (0, "", 0)
            assert said == [
                "the session ended: the server closed the session; reconnecting",
                "connected again",
            ]

    play(dialogue)


def test_who_keeps_something_of_a_session_hears_of_its_end_before_the_next() -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, _, _said):
            heard: list[tuple[bool, int]] = []
            uplink.on_lost(lambda: heard.append((uplink.is_up, len(network.sessions))))
            for number in (1, 2):
                network.sessions[-1].closed.set_result("gone")
                await until(lambda number=number: uplink.is_up and len(network.sessions) > number)
            assert heard == [(False, 1), (False, 2)]

    play(dialogue)


def test_without_a_session_everything_fails_at_once() -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, _, _said):
            network.answer = TransportError("cannot reach it")
            network.sessions[0].closed.set_result("gone")
            await until(lambda: not uplink.is_up)
            for asked in (
                uplink.open("www.example.com", 80),
                uplink.open_stream("x", 53),
                uplink.open_service("x", 7, asyncio.Protocol()),
            ):
                with pytest.raises(OpenFailed) as failed:
                    await asked
                assert failed.value.failure is Failure.UNAVAILABLE

    play(dialogue)


def test_service_is_asked_of_our_own_server_and_of_no_other() -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, _, _said):
            await uplink.open_service("echo", 7, asyncio.Protocol())
            uplink.is_overlay_server = False
            with pytest.raises(OpenFailed) as failed:
                await uplink.open_service("echo", 7, asyncio.Protocol())
            assert failed.value.failure is Failure.UNSUPPORTED
            assert network.sessions[0].opened == ["echo"]

    play(dialogue)


def test_tries_go_on_and_the_last_error_is_told() -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, keeping, said):
            network.answer = TransportError("cannot reach it: connection refused")
            network.sessions[0].closed.set_result("gone")
            await until(lambda: network.tries >= 5)
            assert network.state.attempts >= 3
            assert uplink.last_error == "cannot reach it: connection refused"
            assert not keeping.done()
            assert len(said) == 1
            network.answer = None
            await until(lambda: uplink.is_up)

    play(dialogue)


def test_what_would_be_met_again_ends_it() -> None:
    async def dialogue() -> None:
        async with kept() as (_, network, keeping, _said):
            network.answer = AuthenticationError("the host key has changed")
            network.sessions[0].closed.set_result("gone")
            with pytest.raises(AuthenticationError, match="has changed"):
                await keeping
            assert network.tries == 2

    play(dialogue)


@pytest.mark.usefixtures("waits_are_long")
def test_change_of_the_network_makes_it_try_at_once(changed: Callable[[], None]) -> None:
    async def dialogue() -> None:
        async with kept() as (uplink, network, _, _said):
            network.answer = TransportError("no network")
            network.sessions[0].closed.set_result("gone")
            await until(lambda: network.state.attempts == 1)
            await until(lambda: uplink.retry_in_s == 2)
            network.answer = None
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            changed()
            await until(lambda: uplink.is_up)
            assert loop.time() - started_s < 1.9

    play(dialogue)


def test_try_that_hangs_on_the_old_network_is_given_up(
    changed: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpn.client.session.backoff.PATIENCE_S", 0.05)
    monkeypatch.setattr("vpn.client.session.backoff.FIRST_S", 0.01)

    async def dialogue() -> None:
        async with kept() as (uplink, network, _, _said):
            network.is_silent = True
            network.tried.clear()
            network.sessions[0].closed.set_result("gone")
            await network.tried.wait()
            network.is_silent = False
            changed()
            await until(lambda: uplink.is_up)
            assert network.given_up == 1

    play(dialogue)


def test_change_while_there_is_a_session_asks_for_a_sign_of_life(
    changed: Callable[[], None],
) -> None:
    async def dialogue() -> None:
        async with kept() as (_, network, _keeping, _said):
            changed()
            assert network.sessions[0].hurries == 1
            assert network.tries == 1

    play(dialogue)


def test_cancelled_in_the_middle_of_a_try_leaves_none() -> None:
    async def dialogue() -> None:
        async with kept() as (_, network, keeping, _said):
            network.is_silent = True
            network.tried.clear()
            network.sessions[0].closed.set_result("gone")
            await network.tried.wait()
            keeping.cancel()
            await asyncio.wait({keeping})
            assert network.given_up == 1

    play(dialogue)


def test_without_netlink_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, "Changes", closed)

    async def dialogue() -> None:
        async with kept() as (uplink, network, _, said):
            network.sessions[0].closed.set_result("gone")
            await until(lambda: len(network.sessions) == 2 and uplink.is_up)
            assert said[0] == "cannot watch the network for changes: Operation not permitted"

    play(dialogue)
