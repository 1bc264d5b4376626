"""The few system calls that the standard library of Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

_PR_SET_SECUREBITS: Final = 28
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def unshare(flags: int) -> None:
    """Leave namespaces for new ones (unshare(2)). Raises OSError."""
    _checked(_libc.unshare(flags))


def clear_ambient() -> None:
    """Empty the ambient capability set (capabilities(7)). Raises OSError."""
    _checked(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))


def set_securebits(bits: int) -> None:
    """Set the securebits of this thread (capabilities(7)). Raises OSError."""
    _checked(_libc.prctl(_PR_SET_SECUREBITS, ctypes.c_ulong(bits), 0, 0, 0))


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor of this process except `keep`."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the one that listed the directory is closed already
