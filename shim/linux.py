"""The few system calls that the standard library of Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_AT_FDCWD: Final = -100
_CLONE_TREE: Final = 0x8000 | 1
"""AT_RECURSIVE, OPEN_TREE_CLONE."""
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process to new namespaces (unshare(2)). Raises OSError."""
    if _libc.unshare(flags) != 0:
        raise _error()


def isolate() -> None:
    """Move to an empty network namespace; without CAP_SYS_ADMIN, inside a new user namespace."""
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor of this process except `keep`.

    Objects that exist now are never garbage collected: a finalizer could close a reused descriptor.
    """
    gc.freeze()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # that of the listing, which is closed by now


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount (mount(2)). Raises OSError that names the target."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    if result != 0:
        raise _error(target)


def clone_mounts(path: str) -> int:
    """Return a detached copy of the mounts at and below a path (open_tree(2)). Raises OSError."""
    flags = _CLONE_TREE | os.O_CLOEXEC
    fd: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, path.encode(), flags)
    if fd < 0:
        raise _error(path)
    return fd


def attach_mounts(fd: int, target: str) -> None:
    """Attach what `clone_mounts` has copied to a directory (move_mount(2)). Raises OSError."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    if _libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, target.encode(), flags) != 0:
        raise _error(target)


def _error(path: str | None = None) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, os.strerror(error), path)
