"""`keygen` makes a host key once, and `key show` tells what others need to know of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vpn import identity
from vpn.cli.main import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def test_key_is_made_and_never_overwritten(path: Path, capsys: Captured) -> None:
    assert run(["keygen", str(path)]) == 0
    made = identity.load(path)
    assert capsys.readouterr().out == f"{path}\n{made.fingerprint}\n"
    assert run(["keygen", str(path)]) == 78
    assert identity.load(path).fingerprint == made.fingerprint


def test_key_is_shown_as_lines(path: Path, capsys: Captured) -> None:
    made = identity.generate(path)
    assert run(["key", "show", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"node id      {made.node_id}",
        f"fingerprint  {made.fingerprint}",
        f"known_hosts  [HOST]:4422 {made.openssh_public}",
    ]


def test_key_is_shown_as_a_document(path: Path, capsys: Captured) -> None:
    made = identity.generate(path)
    assert run(["key", "show", "--json", str(path)]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == {
        "schema": 1,
        "node_id": made.node_id,
        "fingerprint": made.fingerprint,
        "public_key": made.openssh_public,
        "known_hosts": f"[HOST]:4422 {made.openssh_public}",
    }


def test_key_that_is_not_there_is_a_matter_of_configuration(path: Path, capsys: Captured) -> None:
    assert run(["key", "show", str(path)]) == 78
    assert str(path) in capsys.readouterr().err
