"""`service` prints, installs, checks and removes the units of a tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpn.cli import service
from vpn.cli.main import run
from vpn.systemd import closure, installer

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_closure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server needs of the file system is of no account here."""
    monkeypatch.setattr(closure, "needs", list)


@pytest.mark.parametrize("kind", ["server", "shim", "client"])
def test_what_is_printed_is_what_would_be_written(kind: str, capsys: Captured) -> None:
    assert run(["service", "print", kind]) == 0
    printed = capsys.readouterr().out
    expected = installer.files(kind, closure.interpreter(), [])
    assert printed == "".join(f"# {path}\n{text}\n" for path, text in expected.items())
    assert expected


def test_server_is_the_default(capsys: Captured) -> None:
    assert run(["service", "print"]) == 0
    assert "overlay-vpn-server.service" in capsys.readouterr().out


def test_units_are_written_once_with_what_comes_next(tmp_path: Path, capsys: Captured) -> None:
    argv = ["service", "install", "client", "--root", str(tmp_path)]
    assert run(argv) == 0
    *written, after = capsys.readouterr().out.splitlines()
    assert after == "next: systemctl daemon-reload, systemctl enable --now overlay-vpn-client@USER"
    paths = [line.removeprefix("wrote ") for line in written]
    assert paths
    assert all(Path(path).exists() for path in paths)
    assert run(argv) == 0
    assert capsys.readouterr().out == ""


def test_units_that_are_removed_are_named(tmp_path: Path, capsys: Captured) -> None:
    for verb in ("install", "uninstall"):
        assert run(["service", verb, "client", "--root", str(tmp_path)]) == 0
    removed = [
        line.removeprefix("removed ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("removed ")
    ]
    assert removed
    assert not any(Path(path).exists() for path in removed)


def test_check_names_each_problem(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    found = ["it lacks a bind", "it lacks a user"]
    monkeypatch.setattr("vpn.systemd.checks.problems", lambda place, kind: found)
    assert run(["service", "check", "shim"]) == 78
    assert capsys.readouterr().err.splitlines() == [f"overlay-vpn: {line}" for line in found]
    found.clear()
    assert run(["service", "check", "shim"]) == 0
    assert capsys.readouterr().err == ""


def test_check_of_nothing_is_a_matter_of_configuration(tmp_path: Path, capsys: Captured) -> None:
    assert run(["service", "check", "client", "--root", str(tmp_path)]) == 78
    assert "run 'overlay-vpn service install'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_units_of_the_machine_are_for_root(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, verb: str
) -> None:
    monkeypatch.setattr(service.os, "geteuid", lambda: 1000)
    for name in ("install", "uninstall"):
        monkeypatch.setattr(installer, name, pytest.fail)
    assert run(["service", verb]) == 77
    assert "run it with sudo" in capsys.readouterr().err


def test_tree_of_a_user_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service.os, "geteuid", lambda: 1000)
    assert run(["service", "uninstall", "client", "--root", str(tmp_path)]) == 0


def test_kind_that_is_none_is_a_usage_error() -> None:
    assert run(["service", "print", "gate"]) == 2
