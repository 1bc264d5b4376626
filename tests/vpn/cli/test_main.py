"""Failures are one line and a status, whichever verb and whatever went wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vpn import errors
from vpn.cli import main
from vpn.cli.main import run

Capture = pytest.CaptureFixture[str]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def invoke(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", invoke)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.OverlayError("it failed"), 1),
        (errors.UsageError("it failed"), 2),
        (errors.NotPermittedError("it failed"), 77),
        (errors.ConfigurationError("it failed"), 78),
        (errors.TransportError("it failed"), 255),
        (errors.AuthenticationError("it failed"), 255),
    ],
)
def test_each_error_has_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: errors.OverlayError, status: int
) -> None:
    fail_with(monkeypatch, error)
    assert run(["status"]) == status
    assert capsys.readouterr().err == "overlay-vpn: it failed\n"


@pytest.mark.parametrize("words", [["run", "--", "x"], ["-v", "run"], ["enter", "x", "--", "y"]])
def test_failure_of_ours_is_apart_from_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: list[str]
) -> None:
    fail_with(monkeypatch, errors.TransportError("it failed"))
    assert run(words) == 125


@pytest.mark.parametrize("words", [["up", "run"], ["-v", "up", "enter"], ["status", "run"], []])
def test_other_verbs_keep_their_status_whatever_their_arguments(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    fail_with(monkeypatch, errors.TransportError("it failed"))
    assert run(words) == 255


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["up", "--unshare", "up", "--", "up"], ["run", "up", "--", "up"]),
        (["-v", "up", "--unshare", "host"], ["-v", "run", "host"]),
        (["up", "host", "--", "--unshare"], ["up", "host", "--", "--unshare"]),
        (["dns", "up", "--unshare"], ["dns", "up", "--unshare"]),
    ],
)
def test_up_unshare_is_run(
    monkeypatch: pytest.MonkeyPatch, words: list[str], meant: list[str]
) -> None:
    invoked: list[list[str]] = []
    monkeypatch.setattr(main.cli, "main", lambda arguments, **_: invoked.append(arguments))
    run(words)
    assert invoked == [meant]


def test_bug_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fail_with(monkeypatch, KeyError("two\nlines"))
    assert run(["status"]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "KeyError" in said


def test_bug_has_a_traceback_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    fail_with(monkeypatch, KeyError("inside"))
    assert run(["-v", "status"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nonsense"], ["status", "--nonsense"], ["up"]])
def test_words_that_mean_nothing_are_a_usage_error(capsys: Capture, words: list[str]) -> None:
    assert run(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["run"], "overlay-vpn run [OPTIONS] [TARGET] -- CMD [ARG]..."),
        (["enter"], "overlay-vpn enter [OPTIONS] ID -- CMD [ARG]..."),
        (["up"], "overlay-vpn up [OPTIONS] TARGET"),
    ],
)
def test_usage_has_the_words_in_their_order(capsys: Capture, words: list[str], usage: str) -> None:
    assert run([*words, "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Usage: {usage}"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--kill-switch", "--route", "192.0.2.0/24"], "leave out --route"),
        (["--lan", "block"], "add --kill-switch"),
    ],
)
def test_up_that_contradicts_itself_is_a_usage_error(
    capsys: Capture, words: list[str], hint: str
) -> None:
    assert run(["up", "host", *words]) == 2
    said = capsys.readouterr().err
    assert hint in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("path", ["", "/dev/null/key"])
def test_key_that_cannot_be_written_is_a_matter_of_configuration(
    capsys: Capture, path: str
) -> None:
    assert run(["keygen", path]) == 78
    assert "cannot write key" in capsys.readouterr().err


def test_place_of_the_key_that_cannot_be_made_is_a_matter_of_configuration() -> None:
    argv = [sys.executable, "-m", "vpn.cli.main", "keygen"]
    environment = os.environ | {"XDG_CONFIG_HOME": "/dev/null"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stderr.startswith("overlay-vpn: cannot create /dev/null/overlay-vpn: ")


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "host"],
        ["run", "host", "--"],
        ["run", "--", "true"],
        ["run", "host", "--embedded", "--", "true"],
        ["run", "--embedded", "--udp", "datagram", "--", "true"],
        ["run", "--embedded", "--allow", "", "--", "true"],
        ["run", "--embedded", "--publish", "x", "--", "true"],
        ["run", "--embedded", "--host", "x", "--", "true"],
        ["up", "--unshare", "a@", "--", "true"],
        ["enter", "id"],
    ],
)
def test_run_that_means_nothing_starts_nothing(capsys: Capture, words: list[str]) -> None:
    assert run(words) == 125
    assert len(capsys.readouterr().err.splitlines()) == 1
