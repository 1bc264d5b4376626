"""`status` prints the state first and exits by it, whatever the tunnel says of itself."""

from __future__ import annotations

import msgspec
import pytest

from vpn.cli import status
from vpn.cli.main import run
from vpn.control import client as control
from vpn.control.messages import BLOCKED, DOWN, State, Status

Captured = pytest.CaptureFixture[str]


def given(monkeypatch: pytest.MonkeyPatch, found: Status) -> None:
    monkeypatch.setattr(control, "query", lambda: found)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("connected", 0),
        *((one, 1) for one in ("down", "blocked", "connecting", "reconnecting", "closing")),
    ],
)
def test_exit_status_is_0_only_if_connected(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, state: State, code: int
) -> None:
    given(monkeypatch, Status(state=state))
    assert run(["status"]) == code
    assert capsys.readouterr().out.startswith(state)
    assert run(["status", "--json"]) == code
    assert msgspec.json.decode(capsys.readouterr().out, type=Status) == Status(state=state)


@pytest.mark.parametrize(("found", "lines"), [(DOWN, 1), (BLOCKED, 2)])
def test_where_nothing_runs_there_are_no_figures(found: Status, lines: int) -> None:
    assert len(status._text(found).splitlines()) == lines


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"dropped": {"no-session": 3, "reserved": 1}}, "  dropped  3 no-session, 1 reserved"),
        ({"kill_switch": True}, "  switch   on, local network reachable"),
        ({"kill_switch": True, "lan": False}, "  switch   on, local network blocked"),
        ({"paused_s": 60}, "  paused   for another 60 s"),
        ({"warnings": ("no Landlock",)}, "  warning  no Landlock"),
    ],
)
def test_what_is_out_of_the_ordinary_has_a_line(more: dict[str, object], line: str) -> None:
    usual = status._text(Status(state="connected")).splitlines()
    assert line not in usual
    lines = status._text(Status(state="connected", **more)).splitlines()  # type: ignore[arg-type]
    assert lines == [*usual, line]


@pytest.mark.parametrize(
    ("retry_in_s", "headline"),
    [(5, "reconnecting, next try in 5 s: silent"), (0, "reconnecting, trying now: silent")],
)
def test_lost_session_says_why_and_when(retry_in_s: int, headline: str) -> None:
    lost = Status(state="reconnecting", last_error="silent", retry_in_s=retry_in_s)
    assert status._text(lost).splitlines()[0] == headline


def test_answer_of_a_hostile_client_does_nothing_to_the_terminal() -> None:
    hostile = "a\x1b]0;owned\x07\x9b2J\nconnected"
    for one in (
        Status(state="connected", target=hostile, device=hostile, routes=(hostile,)),
        Status(state="reconnecting", last_error=hostile, warnings=(hostile,)),
    ):
        text = status._text(one)
        assert all(line.isprintable() for line in text.split("\n"))
        assert text.splitlines()[1:].count("connected") == 0
