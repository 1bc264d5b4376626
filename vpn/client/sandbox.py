"""How the client confines itself, and what it says where the kernel cannot.

Theory of operation
-------------------
The client is the user, and reads what a server sends. It has no capability and no way to one
(`vpn.linux.privileges`). With Landlock it gives away, for good, what else a user may do and it need
not:

- it runs no program at all (a shared object that is loaded is read, not run);
- it reads the interpreter, libraries, what resolves names, and the user's keys and known hosts;
- it writes to the known hosts, if a new server may be added to them, and else to nothing; its log
  and the places where others reach it are open already;
- it signals nobody, and reaches no abstract Unix socket. The agent's socket has a path.

A file that is named and not in a directory that may be read, such as a key elsewhere, is the file
that it was at the start: one that takes its name later is not readable.

It holds for the thread that calls, and for those that it makes: so it comes before the event loop,
which makes some for name resolution.

This is for `up` only. Under `run`, the client ends what the command has left running, and finds it
by looking at the network namespace of each process: to a process under Landlock, whatever the
rules, others are closed (landlock(7), "Ptrace restrictions").

Source: landlock(7), linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shim.protocol.common import Missing

if TYPE_CHECKING:
    from vpn.ssh.session.client import Login

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_OF_FILES: Final = _READ_FILE | _WRITE_FILE

_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/etc", "/nix/store", "/dev/urandom", "/proc/sys")
_RESOLVERS: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")

_WARNINGS: Final = {
    Missing.LANDLOCK: "no Landlock in this kernel: file permissions alone keep files from a part "
    "that is taken over",
    Missing.SECCOMP: "no system call filter for this kernel or machine: a part that is taken over "
    "can make every call that its user can",
}

_libc = ctypes.CDLL(None, use_errno=True)


def warnings(missing: Iterable[Missing]) -> tuple[str, ...]:
    """Return a line for each feature of the kernel that had to be done without."""
    return tuple(_WARNINGS[feature] for feature in missing)


def confine(login: Login) -> tuple[Missing, ...]:
    """Confine this thread to what a session needs. Returns what the kernel lacks; raises OSError.

    The log must be open. A file for known hosts is made if there is none and one may be needed.
    """
    ours = str(Path(__file__).parents[2])
    libraries = (ours, sys.prefix, sys.base_prefix, *filter(None, sys.path))
    readable = [*_SYSTEM, *_RESOLVERS, *libraries, "~/.ssh"]
    for path in login.identities if isinstance(login.identities, tuple) else ():
        readable += [f"{path}{suffix}" for suffix in ("", "-cert.pub", ".pub")]
    writable = ["/dev/null"]
    if login.host_keys.accept_new:
        hosts = login.new_hosts_file.expanduser()
        with suppress(OSError):  # it will be told when it matters
            hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            hosts.touch(mode=0o600)
        writable.append(str(hosts))
    return () if restrict(readable, writable) else (Missing.LANDLOCK,)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Leave this thread these files and directories, as far as they exist, and nothing else.

    Returns False where the kernel has no Landlock. Raises OSError.
    """
    try:
        version = _syscall(444, None, ctypes.c_size_t(0), 1)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    files = (1 << 13 + (version >= 2) + (version >= 3) + (version >= 5)) - 1
    attributes = struct.pack("QQQ", files, 0, 3 if version >= 6 else 0)
    ruleset = _syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0)
    for paths, rights in ((readable, _READ_FILE | _READ_DIR), (writable, _OF_FILES)):
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, Path(path).expanduser(), rights)
    _syscall(446, ruleset, 0)
    os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        applicable = rights if path.is_dir() else rights & _OF_FILES
        _syscall(445, ruleset, 1, struct.pack("=Qi", applicable, opened), 0)
    finally:
        os.close(opened)


def _syscall(number: int, *arguments: object) -> int:
    """Make one of the three calls of Landlock, of the same number on every machine."""
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
