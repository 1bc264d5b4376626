"""The runs of a user are those whose sockets answer; a name leads to no other directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fakes import RUN, OfRun, Up, listener_at, saying, serving

from shim.protocol.common import Hello
from vpn.control import client as control
from vpn.control import messages, runs
from vpn.control.messages import VERSION, Done, RunAnswer
from vpn.errors import ConfigurationError, OverlayError, VersionError

HELLO = msgspec.msgpack.encode(Hello(VERSION))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return runs.directory()


def at(directory: Path, run_id: str) -> str:
    return str(directory / f"{run_id}.run")


# The directory.


def test_directory_is_made_for_its_user_alone(tmp_path: Path, directory: Path) -> None:
    assert directory == tmp_path / "overlay-vpn"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert runs.directory() == directory


def test_without_a_runtime_directory_it_is_below_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(Path, "mkdir", lambda self, **more: made.append(self))
    monkeypatch.setattr(
        Path, "lstat", lambda self: os.stat_result((0o40700, 1, 1, 1, os.getuid(), *[0] * 5))
    )
    assert runs.directory() == made[0] == Path(f"/tmp/overlay-vpn-{os.getuid()}")


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize(
    "spoil", [replace_by_link, lambda path: path.chmod(0o710), lambda path: path.chmod(0o701)]
)
def test_directory_that_others_can_reach_is_not_used(
    directory: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(directory)
    with pytest.raises(ConfigurationError, match="is not yours alone"):
        runs.directory()


def test_directory_of_another_user_is_not_used(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="is not yours alone"):
        runs.directory()


def test_directory_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=os.strerror(errno.ENOENT)):
        runs.directory()


def test_listener_of_a_run_is_in_it_and_does_not_block(directory: Path) -> None:
    listener, path = runs.listen("quiet-otter")
    with listener:
        assert str(path) == at(directory, "quiet-otter") == listener.getsockname()
        with pytest.raises(BlockingIOError):
            listener.accept()


# What is there.


def test_runs_are_listed_oldest_first(directory: Path) -> None:
    older = msgspec.structs.replace(RUN, id="older", started=RUN.started - 1)
    said = msgspec.msgpack.encode(RunAnswer(older))
    with serving(at(directory, "a"), OfRun), saying(at(directory, "b"), HELLO, said):
        assert runs.all_runs() == [older, RUN]


def test_run_that_was_killed_is_removed_and_others_are_not(directory: Path) -> None:
    with listener_at(at(directory, "killed")):
        pass
    (directory / "other").touch()
    with serving(at(directory, "there"), OfRun):
        assert runs.all_runs() == [RUN]
    assert sorted(os.listdir(directory)) == ["other", "there.run"]


@pytest.mark.parametrize("said", [b"nonsense", msgspec.msgpack.encode(Done())])
def test_run_that_does_not_say_what_it_is_is_neither_listed_nor_removed(
    directory: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TIMEOUT_S", 0.05)
    with (
        saying(at(directory, "a"), HELLO, said),
        saying(at(directory, "b"), said),
        serving(at(directory, "c"), Up),
        listener_at(at(directory, "d")),
    ):
        assert runs.all_runs() == []
    assert len(os.listdir(directory)) == 4


# One run.


def test_namespaces_of_a_run_are_the_callers(directory: Path) -> None:
    reading, writing = os.pipe()
    with serving(at(directory, "a"), lambda: OfRun(reading)):
        spaces = runs.namespaces("a")
    for fd in spaces:
        assert os.fstat(fd).st_ino == os.fstat(reading).st_ino
        os.close(fd)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("run_id", ["none", "../none", "", "/etc/passwd"])
def test_run_that_is_not_there_is_named(run_id: str) -> None:
    for ask in (runs.namespaces, runs.enter_network, control.list_flows):
        with pytest.raises(OverlayError) as raised:
            ask(run_id)
        assert str(raised.value) == f"there is no run {run_id!r}; see 'overlay-vpn list'"


def test_name_of_a_run_leads_to_no_other_directory(directory: Path) -> None:
    with serving(str(directory.parent / "a.run"), OfRun):
        for run_id in ("../a", str(directory.parent / "a")):
            with pytest.raises(OverlayError, match="there is no run"):
                runs.namespaces(run_id)


def test_run_that_has_no_namespaces_lets_nobody_in(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(at(directory, "a"), Up), pytest.raises(OverlayError, match="'a' does not let us"):
        runs.namespaces("a")
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)
    with (
        listener_at(at(directory, "b")),
        pytest.raises(OverlayError, match="'b' does not let us in"),
    ):
        runs.namespaces("b")


def test_run_of_another_version_says_so(directory: Path) -> None:
    with saying(at(directory, "a"), b"status"), pytest.raises(VersionError):
        runs.namespaces("a")


def test_user_namespace_is_entered_first_and_the_mounts_not_at_all(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []
    monkeypatch.setattr(runs, "namespaces", lambda run_id: (3001, 3002, 3003))
    monkeypatch.setattr(runs, "enter", lambda space, kind: entered.append(space))
    closed: list[int] = []
    monkeypatch.setattr(os, "close", closed.append)
    runs.enter_network("a")
    monkeypatch.undo()
    assert (entered, closed) == ([3001, 3003], [3002])


def test_network_that_cannot_be_entered_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(space: int, kind: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(runs, "namespaces", lambda run_id: (0, os.dup(0), 0))
    monkeypatch.setattr(runs, "enter", refuse)
    with pytest.raises(OverlayError, match="cannot enter the run 'a': Operation not permitted"):
        runs.enter_network("a")
