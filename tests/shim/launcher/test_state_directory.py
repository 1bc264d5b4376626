"""The state directory: locked by one, undone last change first, and gone without a trace."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from shim.launcher import state_directory as module
from shim.launcher.state_directory import BusyError, State
from shim.monitor.plan import changes
from shim.netlink.changes import Change, KillSwitch
from shim.protocol.monitor import Capture

OPEN = Capture(True, True, ())
SWITCH = Capture(True, True, (), kill_switch=True)
PLAN = changes(OPEN)


class Killed(BaseException):
    """The process ends between two system calls."""


class Kernel:
    """A network that remembers what was done to it; may refuse, and may be where it ends.

    A filter is there by its name from the first of its messages, and whole with the last.
    """

    def __init__(self) -> None:
        self.there: list[Change] = []
        self.begun: set[str] = set()
        self.reverted: list[Change] = []
        self.refuses_at: int | None = None
        self.killed_after: int | None = None

    def make(self, change: Change) -> None:
        self._step()
        if len(self.there) == self.refuses_at:
            raise PermissionError
        if change in self.there:
            raise FileExistsError
        if isinstance(change, KillSwitch):
            if change.name in self.begun:
                raise FileExistsError
            self.begun.add(change.name)
            self._step()
        self.there.append(change)

    def revert(self, change: Change) -> None:
        self._step()
        self.reverted.append(change)
        if isinstance(change, KillSwitch):
            self.begun.discard(change.name)
            self.there = [one for one in self.there if not _has_name(one, change.name)]
        elif change in self.there:
            self.there.remove(change)

    def _step(self) -> None:
        if self.killed_after is not None:
            if self.killed_after == 0:
                raise Killed
            self.killed_after -= 1


def _has_name(change: Change, name: str) -> bool:
    return isinstance(change, KillSwitch) and change.name == name


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    monkeypatch.setattr(module, "RUN_DIRECTORY", str(path))
    monkeypatch.setattr(module, "state_directory", lambda _: str(path / "net-1"))
    return path


def kill(state: State) -> None:
    """As the kernel does to a process that is killed: its descriptors are closed, no more."""
    for fd in state.fds:
        os.close(fd)


def undo(state: State, kernel: Kernel | None = None) -> list[Change]:
    kernel = kernel or Kernel()
    state.journal.undo(kernel)  # type: ignore[arg-type]
    return kernel.reverted


def make(state: State, plan: list[Change], kernel: Kernel | None = None) -> None:
    state.journal.make(kernel or Kernel(), plan)  # type: ignore[arg-type]


def test_second_instance_is_busy(run_directory: Path) -> None:
    first = State(0)
    with pytest.raises(BusyError):
        State(0)
    first.remove()


def test_changes_are_undone_last_first_and_only_once(run_directory: Path) -> None:
    state = State(0)
    make(state, PLAN)
    assert undo(state) == PLAN[::-1]
    assert undo(state) == []
    state.remove()
    assert not run_directory.exists()


def test_killed_instance_is_undone_by_the_next(run_directory: Path) -> None:
    first = State(0)
    make(first, PLAN[:3])
    kill(first)
    second = State(0)
    assert undo(second) == PLAN[2::-1]
    second.remove()


def test_torn_last_line_is_a_change_that_was_not_made(run_directory: Path) -> None:
    first = State(0)
    make(first, PLAN[:1])
    kill(first)
    with (run_directory / "net-1/journal").open("ab") as journal:
        journal.write(b'{"family":4,"prio')
    second = State(0)
    assert second.journal.recorded() == PLAN[:1]
    make(second, changes(SWITCH))
    assert second.journal.has_kill_switch
    second.remove()


@pytest.mark.parametrize("garbage", [b"\n", b"{}\n", b"\xff\xfe\n", b'{"family":5}\n' * 1000])
def test_journal_full_of_garbage_undoes_what_it_can(run_directory: Path, garbage: bytes) -> None:
    first = State(0)
    make(first, PLAN[:1])
    kill(first)
    with (run_directory / "net-1/journal").open("ab") as journal:
        journal.write(garbage)
    second = State(0)
    assert undo(second) == [PLAN[0]]
    second.remove()


def test_directory_that_is_a_link_is_not_followed(run_directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_directory.mkdir()
    (run_directory / "net-1").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r".+"):
        State(0)
    assert list(elsewhere.iterdir()) == []


def test_file_that_is_a_link_is_not_followed(run_directory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (run_directory / "net-1").mkdir(parents=True)
    (run_directory / "net-1/journal").symlink_to(precious)
    with pytest.raises(OSError, match=r".+"):
        State(0)
    assert precious.read_text() == "untouched"


def test_owner_is_in_the_lock(run_directory: Path) -> None:
    state = State(0)
    state.set_owner(4711)
    state.set_owner(42)
    assert (run_directory / "net-1/lock").read_text() == "42\n"
    state.remove()


def test_owner_who_was_killed_is_not_the_next_one(run_directory: Path) -> None:
    """His number may be anybody's by now, and `down` would end whose it is."""
    first = State(0)
    first.set_owner(4711)
    kill(first)
    second = State(0)
    assert (run_directory / "net-1/lock").read_text() == ""
    second.remove()


def test_listener_takes_the_place_of_a_stale_one(run_directory: Path) -> None:
    first = State(0)
    first.listen().close()
    kill(first)
    second = State(0)
    listener = second.listen()
    assert (run_directory / "net-1/client.sock").stat().st_mode & 0o777 == 0o666
    listener.close()
    second.remove()
    assert not run_directory.exists()


def test_refused_plan_leaves_nothing_changed(run_directory: Path) -> None:
    kernel = Kernel()
    state = State(0)
    kernel.refuses_at = 3
    with pytest.raises(PermissionError):
        make(state, changes(SWITCH), kernel)
    assert kernel.there == []
    assert not state.journal.has_kill_switch
    state.remove()


def test_refused_plan_leaves_the_switch_of_an_earlier_one(run_directory: Path) -> None:
    kernel = Kernel()
    first = State(0)
    make(first, changes(SWITCH), kernel)
    kill(first)
    before = list(kernel.there)
    second = State(0)
    kernel.refuses_at = len(before) + 2
    with pytest.raises(PermissionError):
        make(second, [*changes(SWITCH, held=second.journal.held), *PLAN], kernel)
    assert kernel.there == before
    assert second.journal.has_kill_switch
    second.remove()


def test_disk_that_is_full_changes_nothing(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()
    state = State(0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: 0)
        with pytest.raises(OSError, match="No space left"):
            make(state, PLAN, kernel)
    assert kernel.there == []
    state.remove()


@pytest.mark.parametrize("then", [SWITCH, OPEN], ids=["switch", "open"])
def test_switch_has_no_gap_wherever_instances_are_killed(
    run_directory: Path, then: Capture
) -> None:
    """Killed after every step of the second start: a whole filter is there until the third."""
    for steps in range(200):
        kernel = Kernel()
        first = State(0)
        make(first, changes(SWITCH), kernel)
        kill(first)
        second = State(0)
        assert second.journal.has_kill_switch
        kernel.killed_after = steps
        was_killed = False
        try:
            make(second, changes(then, held=second.journal.held), kernel)
        except Killed:
            was_killed = True
        kernel.killed_after = None
        switches = [change for change in kernel.there if isinstance(change, KillSwitch)]
        if was_killed:
            assert switches or _is_only_opening(then, kernel)
        else:
            assert len(switches) == then.kill_switch
        kill(second)
        third = State(0)
        undo(third, kernel)
        assert kernel.there == []
        third.remove()
        if not was_killed:
            assert steps > len(changes(then))
            return
    pytest.fail("it never came to an end")


def test_starts_that_are_killed_in_the_middle_leave_the_next_one_a_whole_filter(
    run_directory: Path,
) -> None:
    other = Capture(True, True, (), kill_switch=True, lan=False)
    for steps in range(len(changes(SWITCH)) + 2):
        kernel = Kernel()
        for capture, killed_after in (
            (SWITCH, None),
            (SWITCH, steps),
            (other, steps),
            (other, None),
        ):
            state = State(0)
            kernel.killed_after = killed_after
            with suppress(Killed):
                make(state, changes(capture, held=state.journal.held), kernel)
            kill(state)
            assert any(isinstance(change, KillSwitch) for change in kernel.there), steps
        (switch,) = [change for change in kernel.there if isinstance(change, KillSwitch)]
        assert kernel.begun == {switch.name}
        assert not switch.lan
        kernel.killed_after = None
        last = State(0)
        undo(last, kernel)
        last.remove()


def test_table_of_somebody_else_is_refused_and_stays(run_directory: Path) -> None:
    kernel = Kernel()
    theirs = changes(SWITCH)[0]
    kernel.make(theirs)
    state = State(0)
    with pytest.raises(FileExistsError):
        make(state, changes(SWITCH), kernel)
    assert kernel.there == [theirs]
    state.remove()


def _is_only_opening(then: Capture, kernel: Kernel) -> bool:
    """A start without the switch has captured everything before it takes the filter away."""
    return not then.kill_switch and set(changes(then)) <= set(kernel.there)
