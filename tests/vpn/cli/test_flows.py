"""`flows` lists what goes through the tunnel, or resets one flow."""

from __future__ import annotations

import msgspec
import pytest
from flow_sample import FLOW

from vpn.cli.main import run
from vpn.control import client as control
from vpn.control.messages import FlowStatus
from vpn.errors import OverlayError


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What a tunnel with one flow was asked."""
    calls: list[tuple[object, ...]] = []

    def list_flows(*words: object) -> list[FlowStatus]:
        calls.append(words)
        return [FLOW]

    monkeypatch.setattr(control, "list_flows", list_flows)
    monkeypatch.setattr(control, "kill_flow", lambda *words: calls.append(words))
    return calls


def test_list_is_a_table(
    capsys: pytest.CaptureFixture[str], asked: list[tuple[object, ...]]
) -> None:
    assert run(["flows"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (
        " ".join(row)
        == "t1 tcp 198.18.0.2:40000 [2001:db8::1]:443 half-closed-local 11 22 33 s 4 s server"
    )
    assert " ".join(head) == "ID PROTO SOURCE DESTINATION STATE UP DOWN AGE IDLE EXIT"
    assert asked == [(None,)]


def test_document_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["flows", "--json", "--run", "quiet-otter"]) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document == {"schema": 1, "flows": [msgspec.structs.asdict(FLOW)]}


def test_flow_that_is_killed_is_of_the_run_and_nothing_is_listed(
    capsys: pytest.CaptureFixture[str], asked: list[tuple[object, ...]]
) -> None:
    assert run(["flows", "--run", "quiet-otter", "--kill", ""]) == 0
    assert asked == [("quiet-otter", "")]
    assert capsys.readouterr().out == ""


def test_kill_has_no_document(asked: list[tuple[object, ...]]) -> None:
    assert run(["flows", "--kill", "t1", "--json"]) == 2
    assert asked == []


def test_flow_that_is_not_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise OverlayError("there is no flow")

    monkeypatch.setattr(control, "kill_flow", fail)
    assert run(["flows", "--kill", "t9"]) == 1
