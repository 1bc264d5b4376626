"""The session that comes and goes: renewed by itself, and honest while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import pytest
from dialogues import dialogue, until

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


@dataclass(frozen=True)
class Bench:
    """A session that is kept, over a network of the test; `said` is what was reported of it."""

    uplink: Uplink
    network: Network
    keeping: asyncio.Task[Any]
    said: list[str]


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
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
        yield Bench(uplink, network, keeping, said)
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError, OverlayError):
            await keeping


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


@dialogue(bench)
async def test_lost_session_is_renewed_and_flows_go_through_the_new_one(bench: Bench) -> None:
    await bench.uplink.open("before.example", 80)
    bench.network.sessions[0].closed.set_result("the server closed the session")
    await until(lambda: len(bench.network.sessions) == 2 and bench.uplink.is_up)
    await bench.uplink.open("after.example", 80)
    assert [one.opened for one in bench.network.sessions] == [
        ["before.example"],
        ["after.example"],
    ]
    assert bench.network.state.attempts == bench.uplink.retry_in_s == 0
    assert bench.uplink.last_error == ""
    assert bench.said == [
        "the session ended: the server closed the session; reconnecting",
        "connected again",
    ]


@dialogue(bench)
async def test_who_keeps_something_of_a_session_hears_of_its_end_before_the_next(
    bench: Bench,
) -> None:
    heard: list[tuple[bool, int]] = []
    bench.uplink.on_lost(lambda: heard.append((bench.uplink.is_up, len(bench.network.sessions))))
    for number in (1, 2):
        bench.network.sessions[-1].closed.set_result("gone")
        await until(
            lambda number=number: bench.uplink.is_up and len(bench.network.sessions) > number
        )
    assert heard == [(False, 1), (False, 2)]


@dialogue(bench)
async def test_without_a_session_everything_fails_at_once(bench: Bench) -> None:
    bench.network.answer = TransportError("cannot reach it")
    bench.network.sessions[0].closed.set_result("gone")
    await until(lambda: not bench.uplink.is_up)
    for asked in (
        bench.uplink.open("www.example.com", 80),
        bench.uplink.open_stream("x", 53),
        bench.uplink.open_service("x", 7, asyncio.Protocol()),
    ):
        with pytest.raises(OpenFailed) as failed:
            await asked
        assert failed.value.failure is Failure.UNAVAILABLE


@dialogue(bench)
async def test_service_is_asked_of_our_own_server_and_of_no_other(bench: Bench) -> None:
    await bench.uplink.open_service("echo", 7, asyncio.Protocol())
    bench.uplink.is_overlay_server = False
    with pytest.raises(OpenFailed) as failed:
        await bench.uplink.open_service("echo", 7, asyncio.Protocol())
    assert failed.value.failure is Failure.UNSUPPORTED
    assert bench.network.sessions[0].opened == ["echo"]


@dialogue(bench)
async def test_tries_go_on_and_the_last_error_is_told(bench: Bench) -> None:
    bench.network.answer = TransportError("cannot reach it: connection refused")
    bench.network.sessions[0].closed.set_result("gone")
    await until(lambda: bench.network.tries >= 5)
    assert bench.network.state.attempts >= 3
    assert bench.uplink.last_error == "cannot reach it: connection refused"
    assert not bench.keeping.done()
    assert len(bench.said) == 1
    bench.network.answer = None
    await until(lambda: bench.uplink.is_up)


@dialogue(bench)
async def test_what_would_be_met_again_ends_it(bench: Bench) -> None:
    bench.network.answer = AuthenticationError("the host key has changed")
    bench.network.sessions[0].closed.set_result("gone")
    with pytest.raises(AuthenticationError, match="has changed"):
        await bench.keeping
    assert bench.network.tries == 2


@pytest.mark.usefixtures("waits_are_long")
@dialogue(bench)
async def test_change_of_the_network_makes_it_try_at_once(
    bench: Bench, changed: Callable[[], None]
) -> None:
    bench.network.answer = TransportError("no network")
    bench.network.sessions[0].closed.set_result("gone")
    await until(lambda: bench.network.state.attempts == 1)
    await until(lambda: bench.uplink.retry_in_s == 2)
    bench.network.answer = None
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    changed()
    await until(lambda: bench.uplink.is_up)
    assert loop.time() - started_s < 1.9


@dialogue(bench)
async def test_try_that_hangs_on_the_old_network_is_given_up(
    bench: Bench, changed: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpn.client.session.backoff.PATIENCE_S", 0.05)
    monkeypatch.setattr("vpn.client.session.backoff.FIRST_S", 0.01)
    bench.network.is_silent = True
    bench.network.tried.clear()
    bench.network.sessions[0].closed.set_result("gone")
    await bench.network.tried.wait()
    bench.network.is_silent = False
    changed()
    await until(lambda: bench.uplink.is_up)
    assert bench.network.given_up == 1


@dialogue(bench)
async def test_change_while_there_is_a_session_asks_for_a_sign_of_life(
    bench: Bench,
    changed: Callable[[], None],
) -> None:
    changed()
    assert bench.network.sessions[0].hurries == 1
    assert bench.network.tries == 1


@dialogue(bench)
async def test_cancelled_in_the_middle_of_a_try_leaves_none(bench: Bench) -> None:
    bench.network.is_silent = True
    bench.network.tried.clear()
    bench.network.sessions[0].closed.set_result("gone")
    await bench.network.tried.wait()
    bench.keeping.cancel()
    await asyncio.wait({bench.keeping})
    assert bench.network.given_up == 1


@pytest.fixture
def without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, "Changes", closed)


@pytest.mark.usefixtures("without_netlink")
@dialogue(bench)
async def test_without_netlink_it_says_so_and_goes_on(bench: Bench) -> None:
    bench.network.sessions[0].closed.set_result("gone")
    await until(lambda: len(bench.network.sessions) == 2 and bench.uplink.is_up)
    assert bench.said[0] == "cannot watch the network for changes: Operation not permitted"
