"""What a root lacks: paths are walked as the kernel would walk them inside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vpn.errors import OverlayError
from vpn.systemd.closure import Need, binds_for, interpreter, missing, needs


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """An environment whose interpreter is a chain of links, as venv makes it."""
    for folder in ("env/bin", "env/lib", "usr/bin", "usr/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/bin/python3.11").touch()
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "env/bin/python3").symlink_to(tmp_path / "usr/bin/python3")
    (tmp_path / "env/bin/python").symlink_to("python3")
    (tmp_path / "env/lib64").symlink_to("lib")
    (tmp_path / "env/lib/module.py").touch()
    return tmp_path


def lacks(path: Path, *binds: Path) -> Path | None:
    found = missing(str(path), [(str(bind), str(bind)) for bind in binds])
    return None if found is None else Path(found)


def test_empty_root_lacks_everything(host: Path) -> None:
    assert lacks(host / "env/bin/python") == host / "env/bin/python"


def test_link_out_of_a_bind_is_followed(host: Path) -> None:
    python, env = host / "env/bin/python", host / "env"
    assert lacks(python, env) == host / "usr/bin/python3"
    assert lacks(python, env, host / "usr/bin/python3") is None
    assert lacks(python, env, host / "usr") is None


def test_bind_of_a_link_is_what_it_leads_to(host: Path) -> None:
    assert lacks(host / "env/bin/python", host / "env/bin/python") is None


def test_link_within_a_bind_needs_nothing(host: Path) -> None:
    assert lacks(host / "env/lib64/module.py", host / "env") is None


def test_neighbour_with_the_same_beginning_is_not_in_a_bind(host: Path) -> None:
    assert lacks(host / "usr/library", host / "usr/lib") == host / "usr/library"


def test_bind_of_something_that_is_not_there_holds_nothing(host: Path) -> None:
    assert lacks(host / "gone", host / "gone") == host / "gone"


def test_bind_to_another_place(host: Path) -> None:
    assert missing("/inside/module.py", [(str(host / "env/lib"), "/inside")]) is None
    assert missing("/inside/other.py", [(str(host / "env/lib"), "/inside")]) == "/inside/other.py"


def test_links_in_a_circle_are_an_error(host: Path) -> None:
    (host / "env/a").symlink_to("b")
    (host / "env/b").symlink_to("a")
    with pytest.raises(OverlayError, match="too many"):
        lacks(host / "env/a", host / "env")


def test_fewest_binds_leave_nothing_missing(host: Path) -> None:
    paths = [host / "env", host / "env/bin/python", host / "env/lib"]
    assert binds_for([Need(str(path), "") for path in paths]) == [
        str(host / "env"),
        str(host / "usr/bin/python3"),
    ]


def test_needs_of_this_installation() -> None:
    found = {need.path: need.reason for need in needs()}
    assert interpreter() in found
    assert {"/etc/hosts", "/etc/resolv.conf"} <= set(found)
    assert any(Path(path).name.startswith("libc.") for path in found)
    assert any(Path(path).name.startswith("ld-") for path in found)
    assert not [path for path in found if "passwd" in path or "ssl/certs" in path]
    binds = binds_for([Need(path, reason) for path, reason in found.items()])
    assert not [path for path in found if lacks(Path(path), *map(Path, binds))]
    for gone in binds:
        rest = [Path(bind) for bind in binds if bind != gone]
        assert gone in {str(lacks(Path(path), *rest)) for path in found}
    assert lacks(Path(sys.executable), *map(Path, binds)) is None
