"""A server says at the start what it would miss later."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vpn.errors import ConfigurationError
from vpn.server import preflight


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for path in preflight.NEEDED:
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).touch()
    return tmp_path


def test_complete_system_is_accepted(system: Path) -> None:
    preflight.check(system)


@pytest.mark.parametrize("path", preflight.NEEDED)
def test_missing_file_is_named_with_the_bind(system: Path, path: str) -> None:
    (system / path[1:]).unlink()
    with pytest.raises(ConfigurationError, match=f"'BindReadOnlyPaths={path}'"):
        preflight.check(system)


def test_module_that_cannot_be_loaded_is_not_forgiven(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (system / "overlay_broken.py").write_text("raise ImportError('libx.so.1: cannot open')")
    monkeypatch.syspath_prepend(system)
    monkeypatch.setattr(preflight, "_FORGIVEN", ("overlay_absent", "overlay_broken"))
    with pytest.raises(ImportError, match="libx"):
        preflight.check(system)
    assert "overlay_broken" not in sys.modules
