"""Failures are one line and a status, whichever verb and whatever went wrong."""

from __future__ import annotations

import pytest

from vpn.cli import main
from vpn.cli.main import run
from vpn.errors import (
    AuthenticationError,
    ConfigurationError,
    NotPermittedError,
    OverlayError,
    TransportError,
    UsageError,
)

Capture = pytest.CaptureFixture[str]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def invoke(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", invoke)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OverlayError("it failed"), 1),
        (UsageError("it failed"), 2),
        (NotPermittedError("it failed"), 77),
        (ConfigurationError("it failed"), 78),
        (TransportError("it failed"), 255),
        (AuthenticationError("it failed"), 255),
    ],
)
def test_each_error_has_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: OverlayError, status: int
) -> None:
    fail_with(monkeypatch, error)
    assert run(["status"]) == status
    assert capsys.readouterr().err == "overlay-vpn: it failed\n"


@pytest.mark.parametrize("words", [["run", "--", "x"], ["-v", "run"], ["enter", "x", "--", "y"]])
def test_failure_of_ours_is_apart_from_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: list[str]
) -> None:
    fail_with(monkeypatch, TransportError("it failed"))
    assert run(words) == 125


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
    "words",
    [
        ["run"],
        ["run", "host"],
        ["run", "host", "--"],
        ["run", "--", "true"],
        ["run", "host", "--embedded", "--", "true"],
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
