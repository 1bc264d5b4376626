"""The few system calls that the standard library of Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones (unshare(2)). Raises OSError."""
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def isolate() -> None:
    """Leave for an empty network. Without the capability, it takes a user namespace."""
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor of this process except `keep`.

    Garbage that is left stays so: its end would close numbers that others have by then.
    """
    gc.freeze()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the one that listed the directory is closed already
