"""`pause` takes whole times of one unit, up to an hour."""

from __future__ import annotations

import pytest

from vpn.cli.main import run
from vpn.control import client as control


@pytest.fixture(autouse=True)
def paused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many seconds a tunnel was paused."""
    seconds: list[int] = []
    monkeypatch.setattr(control, "pause", lambda s: not seconds.append(s))
    return seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("5m", 300), ("1h", 3600), ("3600s", 3600), ("00060m", 3600)],
)
def test_time_is_in_seconds(text: str, seconds: int, paused: list[int]) -> None:
    assert run(["pause", "--for", text]) == 0
    assert paused == [seconds]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "-1s",
        "1.5h",
        "3601s",
        "61m",
        "2h",
        "1d",
        " 5m",
        "5m ",
        "5M",
        "\u0661s",
        "000001s",
    ],
)
def test_time_that_is_none_is_a_usage_error(text: str, paused: list[int]) -> None:
    assert run(["pause", f"--for={text}"]) == 2
    assert paused == []


def test_time_has_no_default(paused: list[int]) -> None:
    assert run(["pause"]) == 2
    assert paused == []


def test_without_a_tunnel_there_is_nothing_to_pause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control, "pause", lambda s: False)
    assert run(["pause", "--for", "5m"]) == 1
    line = "overlay-vpn: overlay-vpn is not up here; there is nothing to pause\n"
    assert capsys.readouterr().err == line
