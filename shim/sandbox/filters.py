"""The installation of a system call filter (made by `seccomp.assemble`) in this process.

Source: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

INSTRUCTION: Final = struct.Struct("HBBI")
"""`struct sock_filter`: code, how far to jump if true, if false, operand."""

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def install(program: bytes) -> bool:
    """Put this process under the filter for good; whatever filter it is under stays.

    Needs no_new_privs. Returns False where the kernel has no filters, or there is none for this
    machine. Raises OSError.
    """
    if not program or not _has_filters():
        return False
    memory = ctypes.create_string_buffer(program)
    # struct sock_fprog
    count = len(program) // INSTRUCTION.size
    whole = struct.pack("HxxxxxxP", count, ctypes.addressof(memory))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, whole, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot install the system call filter")
    return True


def _has_filters() -> bool:
    """Whether the kernel looks for a filter where there is none (seccomp(2), EFAULT)."""
    _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT
