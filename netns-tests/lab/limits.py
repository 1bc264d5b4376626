"""The system call filters of a unit, as systemd would set them.

As a program, `limits.py UNIT PROGRAM…` becomes the program under the filters of a unit file: that
of SystemCallFilter=, and those by which systemd does RestrictAddressFamilies= and
RestrictNamespaces= (systemd.exec(5)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from vpn.systemd.units import Unit

_ALLOW: Final = 0x7FFF0000  # seccomp.h: SCMP_ACT_ALLOW
_ERRNO: Final = 0x00050000  # SCMP_ACT_ERRNO
_EQUAL, _MASKED = 4, 7  # SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ
_FAMILIES: Final = range(1, 46)  # linux/socket.h, AF_MAX
_NAMESPACES: Final = (1 << 7, *(1 << bit for bit in range(25, 31)), 1 << 17)  # CLONE_NEW*


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _Filter:
    """A filter of libseccomp."""

    def __init__(self, otherwise: int) -> None:
        self._seccomp = ctypes.CDLL("libseccomp.so.2")
        self._seccomp.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._seccomp.seccomp_init(otherwise))

    def add(self, action: int, name: str, *comparisons: _Comparison) -> None:
        number = self._seccomp.seccomp_syscall_resolve_name(name.encode())
        array = (_Comparison * len(comparisons))(*comparisons)
        self._seccomp.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)

    def load(self) -> None:
        if self._seccomp.seccomp_load(self._context) != 0:
            raise OSError("the system call filter was not accepted")


class SystemCalls:
    """The allow-list that the words of SystemCallFilter= add up to, in their order.

    And whatever else of a unit becomes a filter of system calls.
    """

    def __init__(self, unit: Unit) -> None:
        sets = _sets()
        names: set[str] = set()
        for line in unit.values("SystemCallFilter"):
            for word in line.removeprefix("~").split():
                calls = _expand(word, sets)
                names = names - calls if line.startswith("~") else names | calls
        allowed = _Filter(_ERRNO | errno.EPERM)
        for name in names:
            allowed.add(_ALLOW, name)
        self._filters = [_of_arguments(unit), allowed]

    def limit(self) -> None:
        """Put it in force for good."""
        for one in self._filters:
            one.load()


def _of_arguments(unit: Unit) -> _Filter:
    """Return what RestrictAddressFamilies= and RestrictNamespaces=yes forbid."""
    forbidden = _Filter(_ALLOW)
    families = {getattr(socket, name) for name in unit.words("RestrictAddressFamilies")}
    for family in families and set(_FAMILIES) - families:
        is_it = _Comparison(0, _EQUAL, family, 0)
        forbidden.add(_ERRNO | errno.EAFNOSUPPORT, "socket", is_it)
    for flag in _NAMESPACES if unit.values("RestrictNamespaces") == ["yes"] else ():
        for name in ("unshare", "clone"):
            has_it = _Comparison(0, _MASKED, flag, flag)
            forbidden.add(_ERRNO | errno.EPERM, name, has_it)
    forbidden.add(_ERRNO | errno.EPERM, "setns")
    return forbidden


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
