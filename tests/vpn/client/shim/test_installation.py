"""An installation that others can write does not run as root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpn.client.shim import installation
from vpn.errors import ConfigurationError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of its own, with a file of each kind, which only its owner can write."""
    root = tmp_path / "root"
    for name in (
        "bin/python",
        "pyvenv.cfg",
        "site-packages/deep/library.py",
        "lib/stdlib.py",
        *(f"code/{package}/inner/module.py" for package in installation._PACKAGES),
    ):
        path = root / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch(mode=0o644)
    monkeypatch.setattr(installation.sys, "path", [str(root / "site-packages"), str(root / "lib")])
    monkeypatch.setattr(installation.sys, "executable", str(root / "bin/python"))
    monkeypatch.setattr(installation.sys, "prefix", str(root))
    monkeypatch.setattr(installation, "__file__", str(root / "code/vpn/client/shim/x.py"))
    return root


def test_what_only_its_owner_writes_is_accepted(root: Path) -> None:
    (root / "site-packages/nowhere").symlink_to(root / "none")
    installation.check()


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "bin/python",
        "pyvenv.cfg",
        "site-packages/deep",
        "site-packages/deep/library.py",
        "lib",
        "code",
        *(f"code/{package}/inner/module.py" for package in installation._PACKAGES),
    ],
)
def test_what_others_write_is_named(root: Path, name: str) -> None:
    path = root / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(ConfigurationError, match="can be written by others") as raised:
        installation.check()
    assert str(raised.value).startswith(f"{path} ")


def test_directory_in_which_nobody_removes_what_is_not_theirs_is_accepted(root: Path) -> None:
    root.chmod(0o1777)
    installation.check()


@pytest.mark.parametrize(("group", "is_accepted"), [(0, True), (4711, False)])
def test_group_that_is_not_the_owners_own_counts_as_others(
    root: Path, group: int, is_accepted: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a file to another group")
    path = root / "pyvenv.cfg"
    os.chown(path, 0, group)
    path.chmod(0o664)
    if is_accepted:
        installation.check()
        return
    with pytest.raises(ConfigurationError, match="can be written by others"):
        installation.check()
