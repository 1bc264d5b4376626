"""The state directory: locked by one, undone last change first, and gone without a trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.monitor import state as module
from shim.monitor.plan import Rule, rules
from shim.monitor.state import BusyError, State
from shim.protocol.monitor import Capture

PLAN = rules(Capture(True, True, ()))


class FakeNetlink:
    """Remembers what was deleted."""

    def __init__(self) -> None:
        self.deleted: list[Rule] = []

    def delete_rule(self, rule: Rule) -> None:
        self.deleted.append(rule)


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    monkeypatch.setattr(module, "RUN_DIRECTORY", str(path))
    monkeypatch.setattr(module, "state_directory", lambda: str(path / "net-1"))
    return path


@pytest.fixture
def killed(run_directory: Path) -> Callable[[State], None]:
    """What the kernel does to a process that is killed: its descriptors are closed, no more."""

    def kill(state: State) -> None:
        for fd in state.fds:
            os.close(fd)

    return kill


def undo(state: State) -> list[Rule]:
    netlink = FakeNetlink()
    state.undo(netlink)  # type: ignore[arg-type]
    return netlink.deleted


def test_second_instance_is_busy(run_directory: Path) -> None:
    first = State()
    with pytest.raises(BusyError):
        State()
    first.remove()


def test_changes_are_undone_last_first_and_only_once(run_directory: Path) -> None:
    state = State()
    for rule in PLAN:
        state.record(rule)
    assert undo(state) == PLAN[::-1]
    assert undo(state) == []
    state.remove()
    assert not run_directory.exists()


def test_killed_instance_is_undone_by_the_next(
    run_directory: Path, killed: Callable[[State], None]
) -> None:
    first = State()
    for rule in PLAN[:3]:
        first.record(rule)
    killed(first)
    second = State()
    assert undo(second) == PLAN[2::-1]
    second.remove()


def test_torn_last_line_is_a_change_that_was_not_made(
    run_directory: Path, killed: Callable[[State], None]
) -> None:
    first = State()
    first.record(PLAN[0])
    killed(first)
    with (run_directory / "net-1/journal").open("ab") as journal:
        journal.write(b'{"family":4,"prio')
    second = State()
    assert second.recorded() == PLAN[:1]
    second.remove()


@pytest.mark.parametrize("garbage", [b"\n", b"{}\n", b"\xff\xfe\n", b'{"family":5}\n' * 1000])
def test_journal_full_of_garbage_undoes_what_it_can(
    run_directory: Path, killed: Callable[[State], None], garbage: bytes
) -> None:
    first = State()
    first.record(PLAN[0])
    killed(first)
    with (run_directory / "net-1/journal").open("ab") as journal:
        journal.write(garbage)
    second = State()
    second.record(PLAN[1])
    assert undo(second) == [PLAN[1], PLAN[0]]
    second.remove()


def test_directory_that_is_a_link_is_not_followed(run_directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_directory.mkdir()
    (run_directory / "net-1").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r".+"):
        State()
    assert list(elsewhere.iterdir()) == []


def test_file_that_is_a_link_is_not_followed(run_directory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (run_directory / "net-1").mkdir(parents=True)
    (run_directory / "net-1/journal").symlink_to(precious)
    with pytest.raises(OSError, match=r".+"):
        State()
    assert precious.read_text() == "untouched"


def test_owner_is_in_the_lock(run_directory: Path) -> None:
    state = State()
    state.set_owner(4711)
    state.set_owner(42)
    assert (run_directory / "net-1/lock").read_text() == "42\n"
    state.remove()


def test_listener_takes_the_place_of_a_stale_one(
    run_directory: Path, killed: Callable[[State], None]
) -> None:
    first = State()
    first.listen().close()
    killed(first)
    second = State()
    listener = second.listen()
    assert (run_directory / "net-1/client.sock").stat().st_mode & 0o777 == 0o666
    listener.close()
    second.remove()
    assert not run_directory.exists()
