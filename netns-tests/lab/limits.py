"""The system call filter of a unit, as systemd would set it.

As a program, `limits.py UNIT PROGRAM…` becomes the program under the filter of a unit file.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from vpn.service.units import Unit

_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1  # seccomp.h: SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)


class SystemCalls:
    """The allow-list that the words of SystemCallFilter= add up to, in their order."""

    def __init__(self, unit: Unit) -> None:
        sets = _sets()
        names: set[str] = set()
        for line in unit.values("SystemCallFilter"):
            for word in line.removeprefix("~").split():
                calls = _expand(word, sets)
                names = names - calls if line.startswith("~") else names | calls
        self._seccomp = ctypes.CDLL("libseccomp.so.2")
        self._seccomp.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._seccomp.seccomp_init(_EPERM))
        for name in names:
            number = self._seccomp.seccomp_syscall_resolve_name(name.encode())
            self._seccomp.seccomp_rule_add_array(self._context, _ALLOW, number, 0, None)

    def limit(self) -> None:
        """Put it in force for good."""
        if self._seccomp.seccomp_load(self._context) != 0:
            raise OSError("the system call filter was not accepted")


def _sets() -> dict[str, list[str]]:
    """Return the sets of system calls as systemd has them (systemd-analyze(1))."""
    argv = ["systemd-analyze", "syscall-filter", "--no-pager"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in said.splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif line.startswith("    ") and "#" not in line:
            found.setdefault(name, []).append(line.strip())
    return found


def _expand(word: str, sets: dict[str, list[str]]) -> set[str]:
    if not word.startswith("@"):
        return {word}
    return {call for each in sets[word] for call in _expand(each, sets)}


def command(unit: Path) -> tuple[str, ...]:
    """Return the words that go before a program for it to run under the filter of a unit."""
    paths = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    return ("env", f"PYTHONPATH={paths}", sys.executable, "-m", "lab.limits", str(unit))


if __name__ == "__main__":
    calls = SystemCalls(Unit([Path(sys.argv[1]).read_text()]))
    os.environ.pop("PYTHONPATH")
    calls.limit()
    os.execvp(sys.argv[2], sys.argv[2:])
