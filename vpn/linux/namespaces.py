"""setns(2), for which Python 3.11 has no function."""

from __future__ import annotations

import ctypes
import os
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(space: int, kind: int) -> None:
    """Move this thread into a namespace of a kind, and close its descriptor. Raises OSError."""
    if _libc.setns(space, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(space)
