"""`list` shows the runs that answer."""

from __future__ import annotations

import msgspec
import pytest

from vpn.cli.main import run
from vpn.control import runs
from vpn.control.messages import Run

RUN = Run("quiet-otter", 4712, "embedded", ("sh", "-c", "sleep 9"), 1_790_000_000.5)


@pytest.fixture(autouse=True)
def one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "all_runs", lambda: [RUN])
    monkeypatch.setattr("vpn.cli.list.time.time", lambda: RUN.started + 61.9)


def test_run_is_a_line_with_its_command_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    assert capsys.readouterr().out == "quiet-otter     4712      61  embedded  sh -c 'sleep 9'\n"


def test_document_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json"]) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document == {
        "schema": 1,
        "runs": [
            {
                "id": "quiet-otter",
                "pid": 4712,
                "target": "embedded",
                "command": ["sh", "-c", "sleep 9"],
                "started": 1_790_000_000.5,
            }
        ],
    }
