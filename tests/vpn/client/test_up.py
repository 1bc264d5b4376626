"""The client of `up`: its steps in their order, and what each end looks like from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from client_lab import FakeConnector, FakeGate, no_wait_between_tries, started
from dialogues import dialogue, until

from shim.protocol import DEVICE, datagrams
from shim.protocol.common import Missing
from shim.protocol.gate import Configure, Configured, DropCount, Dropped, DropReason, Open, Opened
from shim.protocol.link import Link
from shim.protocol.resolved import ABSENT, Answer, Outcome
from shim.protocol.resolved import Told as ToldByResolved
from vpn import console
from vpn.client import up
from vpn.client.session import connector
from vpn.client.session import state as states
from vpn.client.session.state import Act, Say, State
from vpn.client.shim.monitor import Monitor
from vpn.client.shim.resolved import ResolvedHelper
from vpn.client.shim.start import Shim
from vpn.client.up import Client
from vpn.config.routes import parse_routes
from vpn.config.settings import SessionSettings
from vpn.config.target import parse_target
from vpn.control.instance import Instance
from vpn.control.messages import StateChanged, Warned
from vpn.control.server import ControlServer
from vpn.errors import AuthenticationError, OverlayError
from vpn.linux.privileges import LocalUser
from vpn.systemd.notify import READY, STOPPING, Notifier, status

KEY = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 80])
SETTINGS = SessionSettings(target=parse_target("alice@vpn.example:4422"))


class FakeMonitor:
    """A monitor that keeps what it is asked for, in the log that all fakes share."""

    def __init__(self, gate: FakeGate, log: list[Any]) -> None:
        self.missing = (Missing.LANDLOCK,)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: OverlayError | None = None
        self.is_slow = False
        self.may_capture = asyncio.Event()
        self.may_capture.set()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._gate = gate
        self._log = log

    async def hello(self) -> tuple[Link, socket.socket]:
        self._log.append("hello")
        return self._gate.link, self.listener

    async def capture(self, **what: object) -> None:
        self._log.append(("capture", what))
        await self.may_capture.wait()
        if self.error is not None:
            raise self.error

    async def pause(self, seconds: int) -> None:
        self._log.append(("pause", seconds))

    def down(self) -> None:
        self._end("down")

    def close(self) -> None:
        self._end("close")

    def _end(self, word: str) -> None:
        self._log.append(word)
        if not self.is_slow and not self.closed.done():
            self.closed.set_result(None)


class FakeResolved:
    """The helper for systemd-resolved."""

    def __init__(self, log: list[Any]) -> None:
        self.told = ToldByResolved(Answer(Outcome.DONE), ABSENT)
        self.warnings: tuple[str, ...] = ("resolved is silent",)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._log = log

    async def announce(self) -> None:
        self._log.append("announce")
        await self.may_answer.wait()

    def pause(self, seconds: int) -> None:
        self._log.append(("pause names", seconds))

    def close(self) -> None:
        self._log.append("close resolved")


class FakeControl:
    """A control server that serves nobody."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log
        self.is_serving = False

    async def serve(self) -> None:
        self.is_serving = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_serving = False

    async def finish(self) -> None:
        self._log.append("finish")


class Bench:
    """A client of which every neighbour is a fake; `log` has what it asked of them, in order."""

    def __init__(self, settings: SessionSettings) -> None:
        self.log: list[Any] = []
        self.now = 500.0
        self.gate = FakeGate()
        self.monitor = FakeMonitor(self.gate, self.log)
        self.resolved = FakeResolved(self.log)
        self.connector = FakeConnector()
        self.control = FakeControl(self.log)
        self.client = Client(
            settings,
            monitor=cast(Monitor, self.monitor),
            resolved=cast(ResolvedHelper, self.resolved),
            connector=self.connector,
            server_addresses=lambda: frozenset({"198.51.100.2"}),
            control=self._control,
            tell=self.log.append,
            clock=lambda: self.now,
        )
        self.serving = started(self.client)

    def _control(self, listener: socket.socket, instance: Instance) -> ControlServer:
        assert (listener, instance) == (self.monitor.listener, self.client)
        return cast(ControlServer, self.control)

    async def come_up(self) -> Configure:
        """Let it come up; returns what the gate was told."""
        configure = await self.gate.configured(datagrams.GATE)
        await until(lambda: Act.TELL_READY in self.log)
        return configure

    async def end(self, *events: Any) -> list[Any]:
        """Wait for the end; returns what was asked from now on."""
        self.log.clear()
        for event in events:
            event()
        await asyncio.wait_for(asyncio.shield(self.serving), 5)
        return self.log

    async def fail(self, reason: str) -> None:
        """Wait for it to fail before it has told anybody that it is ready."""
        with pytest.raises(OverlayError, match=reason):
            await self.serving
        assert Act.TELL_READY not in self.log

    @property
    def captured(self) -> list[dict[str, Any]]:
        """What the monitor was asked to capture."""
        return [one[1] for one in self.log if isinstance(one, tuple) and one[0] == "capture"]

    @property
    def state(self) -> State:
        return self.client.state.name

    async def aclose(self) -> None:
        self.monitor.is_slow = False
        self.client.stop()
        self.client.stop()
        for session in self.connector.sessions:
            session.may_close.set()
        with suppress(OverlayError):
            await self.serving
        self.gate.close()
        self.monitor.listener.close()
        if self.client.tunnel is not None:
            await self.client.tunnel.closed
        self.gate.link.close()


def bench() -> Any:
    return aclosing(Bench(SETTINGS))


def switched() -> Any:
    return aclosing(Bench(replace(SETTINGS, kill_switch=True, lan=False)))


def split() -> Any:
    routes = parse_routes(("10.0.0.0/8", "corp.example"))
    hosts = {"printer": ("192.0.2.1", 0)}
    return aclosing(Bench(replace(SETTINGS, routes=routes, dns="virtual", hosts=hosts)))


def prefix() -> Any:
    return aclosing(Bench(replace(SETTINGS, routes=parse_routes(("10.0.0.0/8",)), dns="virtual")))


# Coming up.


@dialogue(bench)
async def test_new_takes_its_steps_in_order(bench: Bench) -> None:
    bench.connector.may_connect.clear()
    await until(lambda: bench.control.is_serving)
    assert (bench.log, bench.state, bench.client.tunnel) == (["hello"], State.CONNECTING, None)
    bench.connector.may_connect.set()
    configure, fds = await bench.gate.next(Configure)
    assert configure == Configure(True, ())
    assert bench.log == ["hello"]
    assert bench.client.tunnel is not None
    assert bench.client.tunnel.explainer is not None
    bench.gate.send(Configured())
    await until(lambda: Act.TELL_READY in bench.log)
    for fd in fds:
        os.close(fd)
    what = {"everything": True, "names": True, "kill_switch": False, "lan": True, "prefixes": ()}
    assert bench.log == ["hello", ("capture", what), "announce", Act.TELL_READY]
    assert bench.state is State.CONNECTED


@dialogue(switched)
async def test_new_with_a_kill_switch_says_so_to_the_monitor(bench: Bench) -> None:
    await bench.come_up()
    (what,) = bench.captured
    assert (what["kill_switch"], what["lan"]) == (True, False)


@dialogue(split)
async def test_new_with_routes_captures_them_and_their_names(bench: Bench) -> None:
    assert await bench.come_up() == Configure(True, ("corp.example", "printer"))
    (what,) = bench.captured
    assert (what["everything"], what["names"]) == (False, True)
    assert list(map(str, what["prefixes"])) == ["10.0.0.0/8"]


@dialogue(prefix)
async def test_new_with_a_prefix_only_captures_no_names(bench: Bench) -> None:
    assert await bench.come_up() == Configure(False, ())
    (what,) = bench.captured
    assert not what["names"]
    assert bench.client.tunnel is not None
    assert bench.client.tunnel.explainer is not None
    assert not (await bench.client.tunnel.explainer.dns_status()).is_captured


@dialogue(bench)
async def test_up_tells_subscribers_its_warnings_and_its_state(bench: Bench) -> None:
    subscription = bench.client.events.subscribe()
    await bench.come_up()
    seen = [await subscription.next() for _ in range(4)]
    assert [type(one) for one in seen] == [StateChanged, Warned, Warned, StateChanged]
    assert seen[2] == Warned("resolved is silent")
    assert (seen[0], seen[3]) == (StateChanged("connecting"), StateChanged("connected"))


@dialogue(bench)
async def test_up_serves_the_flows_of_its_gate(bench: Bench) -> None:
    await bench.come_up()
    bench.gate.send(Open(1, KEY, "www.example", 80))
    await bench.gate.next(Opened)
    assert bench.connector.sessions[0].opened[-1] == ("www.example", 80)


# What cannot come up.


@dialogue(bench)
async def test_connecting_fails(bench: Bench) -> None:
    bench.connector.error = AuthenticationError("the host key is another one")
    with pytest.raises(AuthenticationError, match="another one"):
        await bench.end()
    assert bench.log[-3:] == ["close resolved", "close", "finish"]
    assert bench.connector.is_closed
    assert (bench.state, bench.control.is_serving) == (State.FAILED, False)


@dialogue(bench)
async def test_connecting_is_stopped(bench: Bench) -> None:
    bench.connector.may_connect.clear()
    await until(lambda: bench.control.is_serving)
    with pytest.raises(OverlayError, match="stopped before the tunnel was up"):
        await bench.end(bench.client.stop)
    assert bench.log == [Act.TELL_STOPPING, "close resolved", "close", "finish"]
    assert bench.connector.given_up == 1


@dialogue(bench)
async def test_connecting_is_taken_down_on_command(bench: Bench) -> None:
    bench.connector.may_connect.clear()
    await until(lambda: bench.control.is_serving)
    down = asyncio.create_task(bench.client.take_down())
    with pytest.raises(OverlayError, match="stopped"):
        await bench.serving
    await down
    assert "down" in bench.log
    assert "close" not in bench.log


@dialogue(switched)
async def test_announcing_is_stopped_and_the_kill_switch_with_it(bench: Bench) -> None:
    bench.resolved.may_answer.clear()
    await bench.gate.configured(datagrams.GATE)
    await until(lambda: "announce" in bench.log)
    with pytest.raises(OverlayError, match="stopped before the tunnel was up"):
        await bench.end(bench.client.stop, bench.resolved.may_answer.set)
    assert bench.log == [Act.TELL_STOPPING, "close resolved", "down", "finish"]


@dialogue(bench)
async def test_announcing_can_be_paused(bench: Bench) -> None:
    bench.resolved.may_answer.clear()
    await bench.gate.configured(datagrams.GATE)
    await until(lambda: "announce" in bench.log)
    await bench.client.pause(60)
    bench.resolved.may_answer.set()
    await until(lambda: Act.TELL_READY in bench.log)
    assert bench.client.status().paused_s == 60


@dialogue(bench)
async def test_configuring_the_gate_ends(bench: Bench) -> None:
    await until(lambda: bench.client.tunnel)
    bench.gate.close()
    with pytest.raises(OverlayError, match="the gate has ended"):
        await bench.end()
    assert not bench.captured
    assert bench.connector.sessions[0].closed.done()


@dialogue(bench)
async def test_capturing_is_refused(bench: Bench) -> None:
    bench.monitor.error = OverlayError("the policy does not permit it")
    await bench.gate.configured(datagrams.GATE)
    await bench.fail("does not permit")
    assert "announce" not in bench.log
    assert bench.state is State.FAILED


@dialogue(bench)
async def test_configuring_is_stopped_and_tells_nobody_that_it_is_ready(bench: Bench) -> None:
    await until(lambda: bench.client.tunnel)
    bench.client.stop()
    await bench.fail("stopped before")
    assert not bench.captured


@dialogue(switched)
async def test_capturing_is_stopped_and_the_kill_switch_holds(bench: Bench) -> None:
    bench.monitor.may_capture.clear()
    await bench.gate.configured(datagrams.GATE)
    await until(lambda: bench.captured)
    bench.client.stop()
    bench.monitor.may_capture.set()
    await bench.fail("stopped before")
    assert "down" not in bench.log
    assert bench.state is State.BLOCKED


# Being up.


@dialogue(bench)
async def test_connected_status(bench: Bench) -> None:
    await bench.come_up()
    bench.gate.send(Open(1, KEY, "www.example", 80))
    bench.gate.send(Dropped((DropCount(DropReason.LAND, 3),)))
    assert bench.client.tunnel is not None
    counters = bench.client.tunnel.counters
    await until(lambda: counters.dropped and counters.opened)
    counters.active, counters.refused, counters.bytes_up, counters.bytes_down = 2, 4, 5, 6
    bench.now += 7.5
    shown = bench.client.status()
    assert (shown.state, shown.target, shown.transport) == (
        "connected",
        "alice@vpn.example:4422",
        "quic",
    )
    assert (shown.device, shown.dns, shown.routes) == (DEVICE, "remote", ("everything",))
    assert (shown.pid, shown.uptime_s, shown.attempts, shown.retry_in_s) == (os.getpid(), 7, 0, 0)
    assert (shown.flows_active, shown.flows_opened, shown.flows_refused) == (2, 1, 4)
    assert (shown.bytes_up, shown.bytes_down, shown.dropped) == (5, 6, {"land": 3})
    assert (shown.kill_switch, shown.lan, shown.paused_s, shown.last_error) == (False, True, 0, "")
    assert shown.warnings[0].startswith("no Landlock")
    assert shown.warnings[1:] == ("resolved is silent",)


@dialogue(prefix)
async def test_connecting_status(bench: Bench) -> None:
    shown = bench.client.status()
    assert (shown.state, shown.dns, shown.flows_opened) == ("connecting", "virtual", 0)
    assert shown.routes == ("10.0.0.0/8",)
    await bench.come_up()
    assert bench.client.status().dns == "virtual"


@dialogue(bench)
async def test_connected_is_explained_with_what_is_around_it(bench: Bench) -> None:
    await bench.come_up()
    assert bench.client.tunnel is not None
    explainer = bench.client.tunnel.explainer
    assert explainer is not None
    shown = await explainer.destination("198.51.100.2", 4422)
    assert (shown.is_server, shown.server) == (True, "alice@vpn.example:4422 (quic)")
    assert (shown.kill_switch, shown.lan, shown.paused_s) == (False, True, 0)
    names = await explainer.dns_status()
    assert (names.asked, names.is_captured, names.resolved) == ("server", True, "done")
    assert names.warnings == ("resolved is silent",)


@dialogue(bench)
async def test_connected_session_is_lost_and_renewed(bench: Bench) -> None:
    await bench.come_up()
    bench.connector.may_connect.clear()
    bench.connector.sessions[0].closed.set_result("it fell silent")
    await until(lambda: bench.state is State.RECONNECTING)
    assert bench.log[-1] == Say("the session ended: it fell silent; reconnecting")
    shown = bench.client.status()
    assert (shown.state, shown.last_error) == ("reconnecting", "it fell silent")
    bench.connector.may_connect.set()
    await until(lambda: bench.state is State.CONNECTED)
    assert bench.log[-1] == Say("connected again")
    assert len(bench.connector.sessions) == 2


@dialogue(bench)
async def test_connected_is_paused(bench: Bench) -> None:
    await bench.come_up()
    bench.log.clear()
    await bench.client.pause(30)
    assert bench.log == [("pause", 30), ("pause names", 30)]
    bench.now += 10
    assert bench.client.status().paused_s == 20


@dialogue(bench)
async def test_connecting_cannot_be_paused(bench: Bench) -> None:
    with pytest.raises(OverlayError, match="nothing to pause"):
        await bench.client.pause(30)
    assert ("pause", 30) not in bench.log


# The end.


@dialogue(bench)
async def test_connected_is_stopped(bench: Bench) -> None:
    await bench.come_up()
    assert await bench.end(bench.client.stop) == [
        Act.TELL_STOPPING,
        "close resolved",
        "down",
        "finish",
    ]
    assert bench.connector.sessions[0].closed.result() == "closed"
    assert bench.gate.datagrams is not None
    assert (bench.state, bench.connector.is_closed) == (State.DOWN, True)
    assert not bench.control.is_serving


@dialogue(bench)
async def test_connected_is_taken_down_and_whoever_asked_hears_when_it_is(bench: Bench) -> None:
    await bench.come_up()
    bench.monitor.is_slow = True
    down = asyncio.create_task(bench.client.take_down())
    await until(lambda: "down" in bench.log)
    assert not down.done()
    bench.monitor.closed.set_result(None)
    await down
    await bench.serving


@dialogue(bench)
async def test_closing_shows_so_and_a_second_stop_takes_down_at_once(bench: Bench) -> None:
    await bench.come_up()
    bench.connector.sessions[0].may_close.clear()
    bench.client.stop()
    assert bench.client.status().state == "closing"
    await asyncio.sleep(0.01)
    bench.log.clear()
    bench.client.stop()
    assert bench.log == ["close"]


@dialogue(bench)
async def test_closing_waits_for_a_session_no_longer_than_a_while(bench: Bench) -> None:
    await bench.come_up()
    bench.connector.sessions[0].may_close.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(up, "CLOSE_S", 0.01)
        assert "down" in await bench.end(bench.client.stop)


@dialogue(bench)
async def test_closing_waits_for_the_monitor_no_longer_than_a_while(bench: Bench) -> None:
    await bench.come_up()
    bench.monitor.is_slow = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(up, "TAKE_DOWN_S", 0.01)
        assert "finish" in await bench.end(bench.client.stop)
    assert not bench.monitor.closed.cancelled()


@pytest.mark.parametrize("helper", ["gate", "monitor"])
@dialogue(switched)
async def test_connected_helper_ends(bench: Bench, helper: str) -> None:
    await bench.come_up()
    if helper == "gate":
        bench.gate.close()
    else:
        bench.monitor.closed.set_result(None)
    with pytest.raises(OverlayError, match="the privileged part has ended"):
        await bench.serving
    assert "down" not in bench.log
    assert bench.state is State.BLOCKED


@dialogue(bench)
async def test_reconnecting_is_refused_for_good(bench: Bench) -> None:
    await bench.come_up()
    with no_wait_between_tries():
        bench.connector.lose_for_good()
        with pytest.raises(AuthenticationError, match="no longer accepted"):
            await bench.serving
    assert "close" in bench.log


@dialogue(bench)
async def test_ended_leaves_no_task_behind(bench: Bench) -> None:
    await bench.come_up()
    await bench.end(bench.client.stop)
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "keep" in str(task) or "wait" in str(task.get_coro())]


# Telling.


class Said:
    """What the service manager, the starter and the log are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[Any] = []
        monkeypatch.setattr(console, "say", lambda line: self.lines.append(("say", line)))
        notifier = Notifier({})
        notifier.send = lambda *lines: self.lines.append(lines)  # type: ignore[method-assign]
        self.notifier = notifier

    def ready(self) -> None:
        self.lines.append("ready")


@pytest.mark.parametrize(
    ("order", "lines"),
    [
        (states.Act.TELL_READY, [(READY, status("connected")), "ready"]),
        (states.Act.TELL_STOPPING, [(STOPPING,)]),
        (states.Say("so it is"), [("say", "so it is"), (status("so it is"),)]),
    ],
)
def test_order_to_tell_reaches_everybody_who_waits(
    order: up.Told, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(monkeypatch)
    up._tell(said.notifier, said.ready, order)
    assert said.lines == lines


# The steps before there is an event loop.


def test_first_steps_are_taken_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    shim = Shim(socket.socket(), None)

    @contextmanager
    def started(names: tuple[str, ...] | None) -> Iterator[Shim]:
        log.append(("shim", names))
        yield shim
        log.append("shim ended")

    async def serve(*arguments: object) -> None:
        log.append(("serve", *arguments))

    class Starter:
        def prepare(self) -> None:
            log.append("prepare")

        def ready(self) -> None:
            """Is called by nobody here."""

    monkeypatch.setattr(up.start, "shim", started)
    monkeypatch.setattr(up.privileges, "become", lambda user: log.append(("become", user)))
    monkeypatch.setattr(up.privileges, "allow_many_files", lambda: log.append("files"))
    monkeypatch.setattr(up.os, "chdir", lambda path: log.append(("chdir", path)))
    monkeypatch.setattr(connector, "credentials_for", lambda settings: "login")
    monkeypatch.setattr(up.sandbox, "confine", lambda login: log.append(("confine", login)))
    monkeypatch.setattr(up, "_serve", serve)
    user, starter = LocalUser(1000, 1000, "alice", Path("/home/alice")), Starter()
    up.up(SETTINGS, user, starter)
    assert log == [
        ("shim", ()),
        ("become", user),
        "files",
        ("chdir", "/"),
        "prepare",
        ("confine", "login"),
        ("serve", SETTINGS, "login", shim, None, starter.ready),
        "shim ended",
    ]
    shim.monitor.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_client(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    made: list[dict[str, Any]] = []

    class Signalled:
        def __init__(self, settings: SessionSettings, **parts: Any) -> None:
            made.append(parts)
            self._is_stopped = asyncio.Event()

        def stop(self) -> None:
            stopped.append("stop")
            self._is_stopped.set()

        async def serve(self) -> None:
            os.kill(os.getpid(), number)
            await asyncio.wait_for(self._is_stopped.wait(), 5)
            made[0]["monitor"].close()

    monkeypatch.setattr(up, "Client", Signalled)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    login = cast(Any, SimpleNamespace())
    with theirs:
        asyncio.run(up._serve(SETTINGS, login, Shim(ours, None), (Missing.SECCOMP,), lambda: None))
    assert stopped == ["stop"]
    assert made[0]["monitor"].missing == (Missing.SECCOMP,)
    assert made[0]["control"] is ControlServer
    assert made[0]["server_addresses"]() == frozenset()
