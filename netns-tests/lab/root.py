"""Starts the server of a unit as systemd would, in its root and under its system call filter.

`root.py UNIT DIRECTORY UID CREDENTIALS`, as root in a mount namespace of its own: makes a root in
the directory with the binds of the unit, /proc and /dev (MountAPIVFS=) and the credentials,
becomes the user without any privilege, and runs ExecStart= with the environment that systemd
gives. Of the many other directives none changes what the server can open or run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from lab.limits import SystemCalls
from vpn.systemd.units import Unit

CREDENTIALS = "/run/credentials/overlay-vpn-server.service"

_EXEC_FAILED = 203  # systemd.exec(5), process exit codes
_PR_SET_MDWE = 65
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


if __name__ == "__main__":
    main()
