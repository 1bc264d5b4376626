"""Units: rendered for an installation, and read back with their drop-ins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vpn.errors import ConfigurationError
from vpn.systemd.units import UNITS, Unit, render, shipped

ROOT = Path(__file__).parents[3]
ALL = [name for names in UNITS.values() for name in names]
LIMITS = {"server": "1.0", "client": "1.0", "shim": "1.1"}


@pytest.mark.parametrize("name", ALL)
def test_rendered_unit_names_this_installation_only(name: str) -> None:
    text = render(name, "/srv/env/bin/python", ["/etc/hosts", "/srv/env"])
    settings = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in settings if "/opt/overlay-vpn" in line]
    if name.endswith(".service"):
        assert Unit([text]).interpreter == "/srv/env/bin/python"


def test_server_has_the_binds_that_it_is_given() -> None:
    unit = Unit([render("overlay-vpn-server.service", "/srv/bin/python", ["/a", "/b/c"])])
    assert unit.has_root
    assert unit.binds == [("/a", "/a"), ("/b/c", "/b/c")]
    assert unit.credentials == ["/etc/overlay-vpn/identity", "/etc/overlay-vpn/authorized_keys"]


@pytest.mark.parametrize(
    ("name", "option"),
    [("overlay-vpn-server.service", "--key"), ("overlay-vpn-client@.service", "--identity")],
)
def test_keys_are_credentials(name: str, option: str) -> None:
    settings = shipped(name).splitlines()
    (start,) = (line for line in settings if line.startswith("ExecStart="))
    path = start.partition(f" {option} ")[2].split()[0]
    assert path.startswith("%d/")
    credential = f"LoadCredential={path.removeprefix('%d/')}:/etc/overlay-vpn/"
    assert [line for line in settings if line.startswith(credential)]
    assert not [line for line in settings if line.startswith(("SetCredential", "Environment="))]


def test_server_in_a_home_is_not_hidden_from_itself() -> None:
    text = render("overlay-vpn-server.service", "/home/a/bin/python", ["/home/a", "/etc/hosts"])
    assert ("/home/a", "/home/a") in Unit([text]).binds
    hiding = text.replace("ProtectHome=tmpfs", "ProtectHome=yes")
    assert Unit([hiding]).binds == [("/etc/hosts", "/etc/hosts")]


@pytest.mark.parametrize("path", ["/with space", "/a:b", "/a%d", "/a;b", "/ä", "/a\nExecStart=b"])
def test_path_that_means_something_in_a_unit_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="plain"):
        render("overlay-vpn-server.service", "/bin/python", [path])
    with pytest.raises(ConfigurationError, match="plain"):
        render("overlay-vpn-shim.service", path, [])


def test_drop_ins_add_and_reset() -> None:
    unit = Unit(
        [
            "[Service]\nBindReadOnlyPaths=/a /b\n# BindPaths=/c\nExecStart=/x y \\\n  z\n",
            "[Service]\nBindReadOnlyPaths=\nBindReadOnlyPaths=-/d:/e:norbind\nBindPaths = /f\n",
        ]
    )
    assert unit.binds == [("/d", "/e"), ("/f", "/f")]
    assert unit.words("ExecStart") == ["/x", "y", "z"]


def test_credentials_of_an_instance_are_not_checked_by_name() -> None:
    assert Unit([shipped("overlay-vpn-client@.service")]).credentials == []


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "tools/check-units"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", LIMITS)
def test_gate_sees_a_unit_without_one_of_its_directives(kind: str, tmp_path: Path) -> None:
    for name in ALL:
        (tmp_path / name).write_text(shipped(name))
    limit = f"{kind}={LIMITS[kind]}"
    assert checked("--units", str(tmp_path), limit).returncode == 0
    unit = tmp_path / next(name for name in UNITS[kind] if name.endswith(".service"))
    good = unit.read_text()
    unit.write_text(good.replace("PrivateDevices=yes\n", ""))
    done = checked("--units", str(tmp_path), limit)
    assert done.returncode == 1
    assert "exposure" in done.stderr
    unit.write_text(good.replace("PrivateDevices=yes\n", "PrivateDevices=yes\nPrivateDevice=yes\n"))
    done = checked("--units", str(tmp_path), limit)
    assert done.returncode == 1
    assert "PrivateDevice" in done.stderr
