"""`down` asks the client first, and does it by itself only for root and where nobody answers."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from vpn.cli import down, recover
from vpn.cli.main import run
from vpn.control import client as control
from vpn.errors import NotPermittedError, OverlayError, VersionError

Captured = pytest.CaptureFixture[str]
SILENT = OverlayError("the client does not answer")


class Machine:
    """A machine on which a client answers `stop` with a value or an error."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[object] = []
        self.stopped: bool | OverlayError = True
        self.owner: int | None = None
        self.is_blocked = False
        self.kill_error: OSError | None = None
        self.uid = 0
        patch.setattr(control, "stop", self._stop)
        patch.setattr(control, "owner", lambda: self.owner)
        patch.setattr(control, "is_blocked", lambda: self.is_blocked)
        patch.setattr(control, "wait_until_gone", lambda s: self.done.append("waited"))
        patch.setattr(recover, "undo", lambda: self.done.append("undone"))
        patch.setattr(down.os, "geteuid", lambda: self.uid)
        patch.setattr(down.os, "kill", self._kill)

    def _stop(self) -> bool:
        if isinstance(self.stopped, OverlayError):
            raise self.stopped
        return self.stopped

    def _kill(self, pid: int, number: int) -> None:
        self.done.append((pid, number))
        if self.kill_error is not None:
            raise self.kill_error


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_client_that_goes_down_leaves_nothing_to_do(machine: Machine) -> None:
    machine.owner, machine.is_blocked = 4711, True
    assert run(["down"]) == 0
    assert machine.done == []


def test_where_nothing_runs_there_is_nothing_to_do(machine: Machine) -> None:
    machine.stopped = False
    assert run(["down"]) == 0
    assert machine.done == []


def test_kill_switch_that_was_left_is_undone(machine: Machine) -> None:
    machine.stopped, machine.is_blocked = False, True
    assert run(["down"]) == 0
    assert machine.done == ["undone"]


@pytest.mark.parametrize("error", [SILENT, VersionError()])
def test_root_ends_the_owner_of_a_client_that_does_not_answer(
    machine: Machine, error: OverlayError
) -> None:
    machine.stopped, machine.owner = error, 4711
    assert run(["down"]) == 0
    assert machine.done == [(4711, signal.SIGTERM), "waited"]


def test_owner_that_has_exited_meanwhile_is_waited_for(machine: Machine) -> None:
    machine.stopped, machine.owner, machine.kill_error = SILENT, 4711, ProcessLookupError()
    assert run(["down"]) == 0
    assert machine.done[1:] == ["waited"]


@pytest.mark.parametrize("owner", [0, None])
def test_without_an_owner_nobody_is_terminated(machine: Machine, owner: int | None) -> None:
    machine.stopped, machine.owner = SILENT, owner
    assert run(["down"]) == 0
    assert machine.done == []


@pytest.mark.parametrize(
    ("error", "uid", "status"),
    [
        (SILENT, 1000, 1),
        (NotPermittedError("it is another user's"), 1000, 77),
        (NotPermittedError("it is another user's"), 0, 77),
    ],
)
def test_client_that_is_left_alone_is_a_failure_in_one_line(
    machine: Machine, capsys: Captured, error: OverlayError, uid: int, status: int
) -> None:
    machine.stopped, machine.owner, machine.uid = error, 4711, uid
    assert run(["down"]) == status
    assert (machine.done, capsys.readouterr().err) == ([], f"overlay-vpn: {error}\n")


def test_owner_of_another_user_is_left_alone(machine: Machine, capsys: Captured) -> None:
    machine.stopped, machine.owner, machine.uid = False, 4711, 1000
    machine.kill_error = PermissionError()
    assert run(["down"]) == 77
    assert "belongs to another user" in capsys.readouterr().err


# `recover`.


def status_of(patch: pytest.MonkeyPatch, status: int) -> Callable[[], int]:
    patch.setattr(recover.os, "geteuid", lambda: 0)
    patch.setattr(recover.start, "spawn", lambda module, links: 4712)
    patch.setattr(recover.os, "waitpid", lambda pid, options: (pid, status << 8))
    return lambda: run(["recover"])


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (0, ""),
        (recover.start.BUSY, "overlay-vpn is running here; use 'overlay-vpn down'"),
        (1, "some changes could not be undone"),
        (0x7F, "some changes could not be undone"),
    ],
)
def test_recover_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, line: str
) -> None:
    assert status_of(monkeypatch, status)() == (1 if line else 0)
    assert line in capsys.readouterr().err


def test_recover_is_for_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recover.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(recover.start, "spawn", pytest.fail)
    assert run(["recover"]) == 77
    assert "run 'sudo overlay-vpn recover'" in capsys.readouterr().err
