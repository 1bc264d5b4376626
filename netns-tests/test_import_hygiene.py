"""S8: whatever lies around, no code runs as root but that of the installation.

app: root, with the directory, the environment and the home of alice, all full of plants
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from lab.overlay import PROGRAM, Overlay

PYTHON = str(Path(sys.executable))
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = ("shim", "vpn", "dns", "prctl", "pyroute2")
MODULES = ("msgspec", "json", "click", "socket", "sitecustomize", "usercustomize", "startup")


@dataclass(frozen=True)
class Plants:
    """Code of alice that writes down who has run it, and where it lies."""

    marks: Path
    directory: Path
    user_site: Path
    environment: Mapping[str, str]

    def ran(self) -> set[str]:
        """Return which plants have run, each with the effective user id, and forget it."""
        found = {path.name for path in self.marks.iterdir()}
        for name in found:
            (self.marks / name).unlink()
        return found

    def ran_as_root(self) -> set[str]:
        return {name for name in self.ran() if name.endswith(" 0")}


@pytest.fixture
def plants(lab: Lab) -> Plants:
    marks = lab.tmp / "marks"
    marks.mkdir(mode=0o777)
    marks.chmod(0o777)
    directory = lab.alice.home / "hostile"
    user_site = lab.alice.home / f".local/lib/{VERSION}/site-packages"
    for folder in (directory, user_site):
        folder.mkdir(parents=True)
        for name in MODULES:
            (folder / f"{name}.py").write_text(plant(marks, folder.name, name))
        for name in PACKAGES:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(plant(marks, folder.name, name))
    pth = "import " + plant(marks, "user-site", "pth").replace("\n", ";").removeprefix("import ")
    (user_site / "plant.pth").write_text(pth + "\n")
    environment = {
        "PYTHONPATH": str(directory),
        "PYTHONSTARTUP": str(directory / "startup.py"),
        "PYTHONINSPECT": "",
        "PYTHONUSERBASE": str(lab.alice.home / ".local"),
        "PYTHONWARNINGS": "error::plant.Category",
        "PYTHONBREAKPOINT": "startup.breakpoint",
        "HOME": str(lab.alice.home),
    }
    return Plants(marks, directory, user_site, environment)


def plant(marks: Path, place: str, name: str) -> str:
    """Return code that works at any moment, also before there are modules."""
    path = f"{str(marks)!r} + '/{place} {name} %d' % posix.geteuid()"
    return f"import posix\nposix.close(posix.open({path}, posix.O_CREAT, 0o666))\n"


def run(lab: Lab, plants: Plants, *argv: str, **environment: str) -> int:
    """Run a program as root in the hostile directory; the environment is alice's if asked for."""
    words = ["env", "-C", str(plants.directory), *argv]
    return lab.app.run(words, env=environment, check=False).returncode


def test_detector_sees_code_run_as_root(lab: Lab, plants: Plants) -> None:
    run(lab, plants, PYTHON, "-c", "import msgspec")
    assert plants.ran_as_root() >= {"hostile msgspec 0"}
    run(lab, plants, PYTHON, "-c", "", PYTHONPATH=plants.environment["PYTHONPATH"])
    assert plants.ran_as_root() >= {"hostile sitecustomize 0"}
    run(lab, plants, PYTHON, "-m", "shim.launcher")
    assert plants.ran_as_root() >= {"hostile shim 0"}
    outside = f"{sys.base_prefix}/bin/{VERSION}"  # a virtual environment has no user site
    run(lab, plants, outside, "-c", "", HOME=str(lab.alice.home))
    assert plants.ran_as_root() >= {"site-packages usercustomize 0", "user-site pth 0"}


def test_up_and_recover_as_root_run_no_plant(lab: Lab, overlay: Overlay, plants: Plants) -> None:
    """With everything that `sudo -E` could let through, and more; the whole way up and down."""
    endpoint = overlay.serve()
    environment = {**overlay.sudo, **plants.environment}
    assert run(lab, plants, *overlay.up_command(endpoint), **environment) == 0
    assert overlay.status()["state"] == "connected"
    for verb in ("status", "down", "recover"):
        assert run(lab, plants, PROGRAM, verb, **environment) == 0
    assert plants.ran() == set()


@pytest.mark.parametrize(
    "module", ["shim.launcher", "shim.monitor", "shim.gate", "shim.launcher.recover"]
)
def test_privileged_programs_run_no_plant(lab: Lab, plants: Plants, module: str) -> None:
    """As the client and systemd start them; they end for want of a link, after their imports."""
    argv = (PYTHON, "-I", "-B", "-m", module)
    assert run(lab, plants, *argv, **plants.environment) == (
        0 if module == "shim.launcher.recover" else 1
    )
    assert plants.ran() == set()


def test_home_of_another_interpreter_is_not_followed(lab: Lab, plants: Plants) -> None:
    home = plants.directory / "home"
    library = home / f"lib/{VERSION}/encodings"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text(plant(plants.marks, "hostile", "encodings"))
    run(lab, plants, PYTHON, "-c", "", PYTHONHOME=str(home))
    assert plants.ran_as_root() == {"hostile encodings 0"}  # the detector
    assert run(lab, plants, PROGRAM, "--version", PYTHONHOME=str(home)) == 0
    assert plants.ran() == set()


def test_programs_of_the_path_are_not_run(lab: Lab, plants: Plants) -> None:
    for name in ("readlink", "dirname", "python3"):
        program = plants.directory / name
        program.write_text(f"#!/bin/sh\n: >'{plants.marks}/path {name} 0'\n")
        program.chmod(0o755)
    path = f"{plants.directory}:/usr/bin:/bin"
    run(lab, plants, "readlink", "x", PATH=path)
    assert plants.ran() == {"path readlink 0"}  # the detector
    assert run(lab, plants, PROGRAM, "--version", PATH=path) == 0
    assert plants.ran() == set()


def test_installation_that_others_may_write_is_not_run_as_root(
    lab: Lab,
) -> None:
    """A library of a virtual environment, and then its directory, may be written by everybody."""
    copy = lab.tmp / "installation"
    lab.app.run([PYTHON, "-m", "venv", "--without-pip", copy], timeout=60)
    site = copy / f"lib/{VERSION}/site-packages"
    (site / "real.pth").write_text(f"{Path(PROGRAM).parents[1]}/lib/{VERSION}/site-packages\n")
    for package in ("dns", "shim", "vpn"):
        shutil.copytree(Path(__file__).parents[1] / package, site / package)
    shutil.copy(PROGRAM, copy / "bin/overlay-vpn")
    program = str(copy / "bin/overlay-vpn")
    assert lab.app.run([program, "recover"], check=False).returncode == 0
    for place in (site / "shim/monitor/plan.py", site / "shim", site, copy / "bin"):
        mode = place.stat().st_mode & 0o777
        place.chmod(mode | 0o002)
        done = lab.app.run([program, "recover"], check=False)
        assert done.returncode == 78
        assert done.stderr == (
            f"overlay-vpn: {place} can be written by others, who would run as root; "
            f"run 'chmod go-w {place}'\n"
        )
        place.chmod(mode)
