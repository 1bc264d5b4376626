"""What a killed instance has left is undone, unless an instance runs or the kill switch stays."""

from __future__ import annotations

import errno

import pytest

from shim.launcher import undo as module
from shim.launcher.state_directory import BusyError
from shim.launcher.undo import BUSY, undo


class World:
    """Machine, state, journal and network in one; it notes what is asked of it."""

    netns, route, netfilter = 3, 4, 5

    def __init__(self) -> None:
        self.log: list[str] = []
        self.has_kill_switch = False
        self.error: Exception | None = None

    @property
    def journal(self) -> World:
        return self

    def undo(self, netlink: object) -> None:
        self.log.append("undo")
        if self.error is not None:
            raise self.error

    def remove(self) -> None:
        self.log.append("remove")

    def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    one = World()
    monkeypatch.setattr(module, "State", lambda _: one)
    monkeypatch.setattr(module, "Netlink", lambda *_: one)
    return one


def test_everything_is_undone_and_the_directory_removed(world: World) -> None:
    assert undo(world) == 0  # type: ignore[arg-type]
    assert world.log == ["undo", "remove", "close"]


@pytest.mark.parametrize(
    ("has_kill_switch", "keep", "log"),
    [
        (True, True, ["close"]),
        (True, False, ["undo", "remove", "close"]),
        (False, True, ["undo", "remove", "close"]),
    ],
)
def test_kill_switch_is_kept_if_that_is_asked_for(
    world: World, has_kill_switch: bool, keep: bool, log: list[str]
) -> None:
    world.has_kill_switch = has_kill_switch
    assert undo(world, keep_kill_switch=keep) == 0  # type: ignore[arg-type]
    assert world.log == log


def test_rule_that_remains_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.error = OSError(errno.ENOBUFS, "full")
    assert undo(world) == 1  # type: ignore[arg-type]
    assert world.log == ["undo", "close"]
    assert "cannot undo a routing rule" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"), [(BusyError("/run"), BUSY), (PermissionError(errno.EPERM, "no"), 1)]
)
def test_directory_that_cannot_be_locked_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(_: int) -> World:
        raise error

    monkeypatch.setattr(module, "State", fail)
    assert undo(world) == status  # type: ignore[arg-type]
    assert world.log == []
