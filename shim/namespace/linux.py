"""The system calls about mounts that the standard library of Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os
from typing import Final

MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount (mount(2)). Raises OSError that names the target."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def clone_mounts(path: str) -> int:
    """Return a detached copy of the mounts at and below a path (open_tree(2)). Raises OSError."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    fd: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, path.encode(), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return fd


def attach_mounts(fd: int, target: str) -> None:
    """Attach what `clone_mounts` has copied to a directory (move_mount(2)). Raises OSError."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    if _libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, target.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
