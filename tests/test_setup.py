"""Which interpreters count for tools/setup, and which of them it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

AS_VERSION = """
import collections, sys, sysconfig
sysconfig.get_config_vars()  # which it keeps
*numbers, level = {version!r}.split(".")
Version = collections.namedtuple("Version", "major minor micro releaselevel")
sys.version_info = Version(*map(int, numbers), level)
sys.executable = {path!r}
sys.argv, program = ["-c", *sys.argv[2:]], sys.argv[1]
exec(program)
"""

MAKES_STUBS = """#!/bin/sh
case $2 in
-c) echo "{version} {path}" ;;
venv)
    echo made >> "$4.log"
    mkdir -p "$4/bin"
    touch "$4/pyvenv.cfg"
    ln -sf /bin/true "$4/bin/pip"
    ln -sf {path} "$4/bin/python" ;;
esac
"""
"""What tools/setup asks of an interpreter: a probe, and an environment."""


def plant(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def interpreter(path: Path, version: str) -> Path:
    """The interpreter of this test as one of another version, called with -I -c PROGRAM."""
    program = plant(
        path.with_name(f"{path.name}.as"), AS_VERSION.format(version=version, path=str(path))
    )
    return plant(path, f'#!/bin/sh\nshift 2\nexec {sys.executable} -I {program} "$@"\n')


def run(tool: str, *argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", **env}
    return subprocess.run([ROOT / "tools" / tool, *argv], capture_output=True, text=True, env=env)


def found(directory: Path) -> list[str]:
    """The versions that are found below a directory, oldest first; the machine has others."""
    path = f"{directory}/bin:{directory}/more:/usr/bin:/bin"
    lines = run("pythons", PATH=path, PYENV_ROOT=f"{directory}/pyenv").stdout.splitlines()
    return [line for line in lines if str(directory) in line]


def test_those_of_the_path_and_of_pyenv_are_found_oldest_first(tmp_path: Path) -> None:
    ten = interpreter(tmp_path / "pyenv/versions/3.11.10/bin/python3", "3.11.10.final")
    nine = interpreter(tmp_path / "more/python3", "3.11.9.final")
    last = interpreter(tmp_path / "bin/python3.14", "3.14.0.final")
    assert found(tmp_path) == [f"3.11.9 {nine}", f"3.11.10 {ten}", f"3.14.0 {last}"]


def test_what_does_not_run_or_is_no_release_or_too_old_is_passed_over(tmp_path: Path) -> None:
    plant(tmp_path / "bin/python3.13", "#!/bin/sh\necho 'pyenv: not found' >&2; exit 127")
    plant(tmp_path / "bin/python3.11-config", "#!/bin/sh\necho 9.9.9 $0")
    plant(tmp_path / "bin/python3.12", "not for this machine").chmod(0o644)
    interpreter(tmp_path / "bin/python3.10", "3.10.13.final")
    interpreter(tmp_path / "pyenv/versions/3.15-dev/bin/python3", "3.15.0.alpha")
    good = interpreter(tmp_path / "more/python3.13", "3.13.0.final")
    assert found(tmp_path) == [f"3.13.0 {good}"]


def test_named_one_may_be_no_release(tmp_path: Path) -> None:
    early = interpreter(tmp_path / "python3.15", "3.15.0.alpha")
    assert run("pythons", early).stdout == f"3.15.0 {early}\n"


def test_named_one_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    old = interpreter(tmp_path / "python3.10", "3.10.13.final")
    for name, why in ((str(old), "it is older than Python 3.11"), ("/nowhere", "No such file")):
        done = run("setup", PYTHON=name, VENV=str(tmp_path / "venv"))
        assert done.returncode == 78
        assert why in done.stderr
        assert f"make setup: PYTHON={name} cannot be used" in done.stderr
        assert not (tmp_path / "venv").exists()


def test_environment_stays_unless_another_interpreter_is_named(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    old, new = tmp_path / "old", tmp_path / "new"
    for path, version in ((old, "3.12.4"), (new, "3.13.0")):
        plant(path, MAKES_STUBS.format(version=version, path=path))

    def set_up(**env: str) -> tuple[str, str]:
        done = run("setup", VENV=str(venv), **env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout, Path(f"{venv}.log").read_text()

    first = (f"make setup: {venv} is of Python 3.12.4 {old}\n", "made\n")
    assert set_up(PYTHON=str(old)) == first
    assert set_up(PYTHON=str(old)) == first
    assert set_up() == first
    assert set_up(PYTHON=str(new)) == (
        f"make setup: {venv} is of Python 3.13.0 {new}\n",
        "made\nmade\n",
    )


def test_directory_that_is_no_environment_is_not_cleared(tmp_path: Path) -> None:
    venv, python = tmp_path / "venv", tmp_path / "python"
    plant(python, MAKES_STUBS.format(version="3.13.0", path=python))
    letter = plant(venv / "letter", "Dear …")
    done = run("setup", PYTHON=str(python), VENV=str(venv))
    assert done.returncode == 78
    assert done.stderr == (
        f"make setup: {venv} is no virtual environment, and not empty; name another with VENV=\n"
    )
    assert letter.exists()
    assert not Path(f"{venv}.log").exists()
    (venv / "pyvenv.cfg").touch()
    assert run("setup", PYTHON=str(python), VENV=str(venv)).returncode == 0
