"""Starts the server of a unit as systemd would, in its root and under its system call filter.

`root.py UNIT DIRECTORY UID CREDENTIALS`, as root in a mount namespace of its own: makes a root in
the directory with the binds of the unit, /proc and /dev (MountAPIVFS=) and the credentials,
becomes the user without any privilege, and runs ExecStart= with the environment that systemd
gives. Of the many other directives none changes what the server can open or run.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from vpn.service.units import Unit

CREDENTIALS = "/run/credentials/overlay-vpn-server.service"

_EXEC_FAILED = 203  # systemd.exec(5), process exit codes
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1  # seccomp.h: SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 38, 65
_MS_BIND, _MS_REC, _MS_RDONLY, _MS_REMOUNT = 4096, 16384, 1, 32

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Become the server; the exit status is 203 if that cannot be run."""
    unit_file, directory, uid, credentials = sys.argv[1:]
    unit = Unit([Path(unit_file).read_text()])
    for source, destination in unit.binds:
        _bind(source, directory + destination, _MS_RDONLY)
    for source, destination in ((credentials, CREDENTIALS), ("/proc", "/proc"), ("/dev", "/dev")):
        _bind(source, directory + destination, 0)
    calls = SystemCalls(unit)
    os.chroot(directory)
    os.chdir("/")
    if int(uid):
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0)  # MemoryDenyWriteExecute=, where the kernel has it
    calls.limit()
    argv = [word.replace("%d", CREDENTIALS) for word in unit.words("ExecStart")]
    given = {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}
    try:
        os.execve(argv[0], argv, {"LANG": "C.UTF-8", "HOME": "/", "USER": "server", **given})
    except OSError as error:
        print(f"Failed to execute {argv[0]}: {error.strerror}", file=sys.stderr)
        os._exit(_EXEC_FAILED)


def _bind(source: str, target: str, flags: int) -> None:
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, _MS_BIND | _MS_REC)
    if flags:
        _mount(source, target, _MS_BIND | _MS_REMOUNT | flags)


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


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


if __name__ == "__main__":
    main()
