"""The client of `run`: no command before its network is there, and nothing left when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from client_lab import FakeConnector, FakeGate, close_all, no_wait_between_tries, received, started
from dialogues import dialogue, until

from shim.protocol import datagrams
from shim.protocol.common import Missing
from shim.protocol.gate import Configure, Open, Opened, Refused
from shim.protocol.handover import pair
from shim.protocol.link import Link, LinkClosedError, Message
from vpn.client.names.far_resolver import FarResolver
from vpn.client.run import CommandClient, write_atomically
from vpn.client.session.state import State
from vpn.client.shim.namespace import Namespace
from vpn.config.settings import SessionSettings
from vpn.config.target import parse_target
from vpn.control import runs
from vpn.control.messages import (
    CLIENT_OF_PARENT,
    PARENT,
    Exited,
    Finished,
    Ready,
    Run,
    StateChanged,
)
from vpn.errors import AuthenticationError, OverlayError
from vpn.policy.rules import Action, Policy, parse_rule

M = TypeVar("M", bound=Message)

KEY = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 80])
RUN = Run("quiet-otter", 4711, "vpn.example:4422", ("make", "check"), 0.0)
SETTINGS = SessionSettings(target=parse_target("alice@vpn.example:4422"), dns="virtual")


class FakeNamespace:
    """A namespace that is there when it may be, of which descriptors stand for the real ones."""

    def __init__(self, gate: FakeGate) -> None:
        self.missing = (Missing.SECCOMP,)
        self.may_enter = asyncio.Event()
        self.may_enter.set()
        self.error: OverlayError | None = None
        self.is_closed = False
        self.is_entered = False
        self.spaces = cast(tuple[int, int, int], tuple(os.open("/", os.O_PATH) for _ in range(3)))
        self._gate = gate

    async def enter(self) -> tuple[Link, tuple[int, int, int]]:
        await self.may_enter.wait()
        if self.error is not None:
            raise self.error
        self.is_entered = True
        return self._gate.link, self.spaces

    async def inner_socket(self, family: int) -> socket.socket:
        raise OSError("nobody connects here")

    def close(self) -> None:
        self.is_closed = True


class Bench:
    """A client of a command, and the command's parent."""

    def __init__(self, settings: SessionSettings) -> None:
        self.gate = FakeGate()
        self.namespace = FakeNamespace(self.gate)
        self.connector = FakeConnector()
        self.parent, theirs = pair(PARENT, CLIENT_OF_PARENT)
        self._theirs = theirs
        self.said: list[str] = []
        self.ended: list[int] = []
        self.now = 1_790_000_000.0
        self.client = CommandClient(
            settings,
            RUN,
            connector=self.connector,
            namespace=cast(Namespace, self.namespace),
            parent=theirs,
            end_processes=self.ended.append,
            say=self.said.append,
            clock=lambda: self.now,
        )
        self.serving = started(self.client)

    async def hears(self, kind: type[M]) -> M:
        """Return the next message to the parent."""
        message, fds = await received(self.parent, kind)
        close_all(fds)
        return message

    def has_heard(self) -> bool:
        return self.parent.receive() is not None

    async def start(self) -> Ready:
        """Let the command start."""
        assert await self.gate.configured(datagrams.GATE) == Configure(True, ())
        return await self.hears(Ready)

    async def exit(self, status: int = 0) -> Finished:
        """Let the command end; returns what its parent hears then."""
        self.parent.send(Exited(status))
        finished = await self.hears(Finished)
        await self.serving
        return finished

    @property
    def entry(self) -> Path:
        return runs.directory() / f"{RUN.id}.run"

    async def aclose(self) -> None:
        self.serving.cancel()
        with suppress(asyncio.CancelledError, OverlayError):
            await self.serving
        self.gate.close()
        if self.client.tunnel is not None:
            await self.client.tunnel.closed
        for link in (self.gate.link, self.parent, self._theirs):
            link.close()
        for fd in self.namespace.spaces:
            os.close(fd)


def bench() -> Any:
    return aclosing(Bench(SETTINGS))


def asking() -> Any:
    return aclosing(Bench(replace(SETTINGS, dns="remote")))


def ruled() -> Any:
    policy = Policy([parse_rule(Action.ALLOW, "allowed.example")])
    return aclosing(Bench(replace(SETTINGS, dns="remote", policy=policy)))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


# Before the command.


@dialogue(bench)
async def test_new_makes_session_and_namespace_at_the_same_time(bench: Bench) -> None:
    bench.namespace.may_enter.clear()
    await until(lambda: bench.connector.sessions)
    assert not bench.has_heard()
    assert bench.client.tunnel is None
    bench.namespace.may_enter.set()
    await bench.start()
    assert bench.said == [
        "warning: no system call filter for this kernel or machine: a part that is taken over can "
        "make every call that its user can"
    ]


@dialogue(bench)
async def test_new_enters_its_namespace_before_the_session_is_there(bench: Bench) -> None:
    bench.connector.may_connect.clear()
    await until(lambda: bench.namespace.is_entered)
    bench.connector.may_connect.set()
    await bench.start()


@dialogue(bench)
async def test_command_starts_only_when_the_gate_answers_names(bench: Bench) -> None:
    await until(lambda: bench.connector.sessions)
    await asyncio.sleep(0.02)
    assert not bench.has_heard()
    await bench.start()
    assert bench.client.tunnel is not None
    assert bench.client.tunnel.explainer is not None
    assert bench.client.namespaces() == bench.namespace.spaces
    bench.now += 5
    assert bench.client.describe_run() == Run(
        *("quiet-otter", 4711, "vpn.example:4422"), RUN.command, 1_790_000_000.0
    )


@pytest.mark.parametrize("is_both", [False, True])
@dialogue(bench)
async def test_session_that_cannot_be_made_is_the_error(bench: Bench, is_both: bool) -> None:
    bench.connector.error = AuthenticationError("the host key is another one")
    if is_both:
        bench.namespace.error = OverlayError("no namespace")
    with pytest.raises(AuthenticationError, match="another one"):
        await bench.serving
    assert bench.namespace.is_closed
    assert bench.connector.is_closed
    assert not bench.entry.exists()


@dialogue(bench)
async def test_namespace_that_cannot_be_made_is_the_error(bench: Bench) -> None:
    bench.namespace.error = OverlayError("no user namespace can be made")
    with pytest.raises(OverlayError, match="no user namespace"):
        await bench.serving
    assert bench.connector.is_closed


@dialogue(bench)
async def test_parent_that_goes_before_its_command_ends_it_all(bench: Bench) -> None:
    bench.connector.may_connect.clear()
    await until(lambda: bench.namespace.is_entered)
    bench.parent.close()
    with pytest.raises(asyncio.CancelledError):
        await bench.serving
    assert (bench.connector.given_up, bench.namespace.is_closed) == (1, True)
    assert not bench.entry.exists()


@dialogue(asking)
async def test_search_domains_are_those_of_the_far_end(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:

        async def domains(_: FarResolver) -> tuple[str, ...]:
            return ("corp.example",)

        patch.setattr(FarResolver, "search_domains", domains)
        assert (await bench.start()).search == ("corp.example",)
    assert bench.client.tunnel is not None
    assert bench.client.tunnel.explainer is not None
    names = await bench.client.tunnel.explainer.dns_status()
    assert (names.search, names.asked) == (("corp.example",), "server")


@dialogue(ruled)
async def test_search_domains_are_none_where_there_are_rules(bench: Bench) -> None:
    assert (await bench.start()).search == ()


@dialogue(bench)
async def test_search_domains_are_none_where_nobody_is_asked(bench: Bench) -> None:
    assert (await bench.start()).search == ()
    assert bench.client.tunnel is not None
    assert bench.client.tunnel.explainer is not None
    assert (await bench.client.tunnel.explainer.dns_status()).asked == ""


# While it runs.


@dialogue(bench)
async def test_running_serves_flows_and_whoever_asks(bench: Bench) -> None:
    await bench.start()
    bench.gate.send(Open(1, KEY, "www.example", 80))
    await bench.gate.next(Opened)
    assert [one.id for one in await asyncio.to_thread(runs.all_runs)] == [RUN.id]


@dialogue(bench)
async def test_running_loses_its_session_and_has_it_renewed(bench: Bench) -> None:
    subscription = bench.client.events.subscribe()
    await bench.start()
    bench.connector.may_connect.clear()
    bench.connector.sessions[0].closed.set_result("gone")
    await until(lambda: bench.client._state.name is State.RECONNECTING)
    bench.connector.may_connect.set()
    await until(lambda: bench.client._state.name is State.CONNECTED)
    assert bench.said[1:] == ["the session ended: gone; reconnecting", "connected again"]
    seen = [await subscription.next() for _ in range(4)]
    assert [one.state for one in seen if isinstance(one, StateChanged)][-3:] == [
        "connected",
        "reconnecting",
        "connected",
    ]


@dialogue(bench)
async def test_running_goes_on_where_there_is_no_session_any_more(bench: Bench) -> None:
    await bench.start()
    with no_wait_between_tries():
        bench.connector.lose_for_good()
        await until(lambda: len(bench.said) == 3)
    assert bench.said[2] == ("the key is no longer accepted; the command has no network any more")
    assert not bench.serving.done()
    assert not (await bench.exit()).problem


# Its end.


@dialogue(bench)
async def test_ended_kills_what_is_left_and_closes_everything(bench: Bench) -> None:
    await bench.start()
    assert bench.entry.exists()
    assert await bench.exit() == Finished(has_denied=False, problem="")
    assert bench.ended == [bench.namespace.spaces[2]]
    assert bench.connector.sessions[0].closed.result() == "closed"
    assert (bench.namespace.is_closed, bench.connector.is_closed) == (True, True)
    assert bench.gate.datagrams is not None
    with pytest.raises(LinkClosedError):
        bench.gate.datagrams.receive()
    assert not bench.entry.exists()
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [one for one in tasks if "keep" in str(one.get_coro())]


@dialogue(bench)
async def test_ended_drains_before_it_resets(bench: Bench) -> None:
    await bench.start()
    tunnel = bench.client.tunnel
    assert tunnel is not None
    done: list[str] = []

    async def drain() -> None:
        assert bench.ended
        done.append("drain")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tunnel, "drain", drain)
        abort = tunnel.abort
        patch.setattr(tunnel, "abort", lambda: (done.append("abort"), abort()))
        await bench.exit()
    assert done == ["drain", "abort"]


@dialogue(bench)
async def test_ended_waits_for_its_session_no_longer_than_a_while(bench: Bench) -> None:
    await bench.start()
    bench.connector.sessions[0].may_close.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpn.client.run._CLOSE_S", 0.01)
        await bench.exit()


@dialogue(ruled)
async def test_ended_tells_that_something_was_denied(bench: Bench) -> None:
    await bench.start()
    bench.gate.send(Open(1, KEY, "denied.example", 80))
    await bench.gate.next(Refused)
    assert (await bench.exit()).has_denied


@dialogue(bench)
async def test_parent_that_is_killed_has_taken_the_command_with_it(bench: Bench) -> None:
    await bench.start()
    bench.parent.close()
    await bench.serving
    assert bench.ended == [bench.namespace.spaces[2]]


# The report.


def reported(path: Path, status: int | None) -> Finished:
    """Run a command with a report to its end; without a status its parent is killed."""
    told: list[Finished] = []

    async def act() -> None:
        async with aclosing(Bench(replace(SETTINGS, report=path))) as bench:
            await bench.start()
            bench.now += 60
            if status is None:
                bench.parent.close()
                await bench.serving
            else:
                told.append(await bench.exit(status))

    asyncio.run(act())
    return told[0] if told else Finished(has_denied=False, problem="")


@pytest.mark.parametrize(("status", "shown"), [(0, 0), (3, 3), (None, 137)])
def test_report_has_the_command_and_how_it_ended(
    tmp_path: Path, status: int | None, shown: int
) -> None:
    path = tmp_path / "report.json"
    assert reported(path, status).problem == ""
    document = json.loads(path.read_text())
    assert document["exit_status"] == shown
    assert document["command"] == ["make", "check"]
    assert document["target"] == "vpn.example:4422"
    assert document["end"] != document["start"]


def test_report_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    problem = reported(tmp_path / "none" / "report.json", 0).problem
    assert "cannot write the report" in problem
    assert "No such file" in problem


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "directory", b"three")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["directory", "file"]
