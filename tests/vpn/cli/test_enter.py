"""`enter` runs a command in the namespaces of a run, and exits as the command does."""

from __future__ import annotations

import pytest

from vpn.cli.main import run
from vpn.client import run_command
from vpn.control import runs
from vpn.errors import OverlayError


def test_command_runs_in_the_namespaces_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def execute(*what: object) -> int:
        asked.append(what)
        return 7

    monkeypatch.setattr(runs, "namespaces", lambda run_id: (f"of {run_id}", 4, 5))
    monkeypatch.setattr(run_command, "run", execute)
    assert run(["enter", "quiet-otter", "--", "ls", "--", "-l"]) == 7
    id_ = {"OVERLAY_VPN_ID": "quiet-otter"}
    assert asked == [(("ls", "--", "-l"), ("of quiet-otter", 4, 5), id_)]


def test_run_that_is_not_there_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(run_id: str) -> None:
        raise OverlayError(f"there is no run {run_id!r}")

    monkeypatch.setattr(runs, "namespaces", fail)
    monkeypatch.setattr(run_command, "run", pytest.fail)
    assert run(["enter", "none", "--", "true"]) == 125
    assert capsys.readouterr().err == "overlay-vpn: there is no run 'none'\n"


@pytest.mark.parametrize("words", [["enter", "id"], ["enter", "id", "--"]])
def test_without_a_command_there_is_a_hint(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(words) == 125
    assert "as in: enter ID -- CMD" in capsys.readouterr().err
