"""Landlock: denies files, TCP ports and signals to others, whatever the user itself may do.

It holds for what is opened from now on; descriptors that are open keep what they can. What a
kernel does not know yet (rights came in versions, "ABIs") is left out.

Source: landlock(7), linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from typing import Final

REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5

# The same numbers on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_RULESET: Final = struct.Struct("QQQ")
"""`struct landlock_ruleset_attr`: what is forbidden of files, of networks, of other processes."""

_libc = ctypes.CDLL(None, use_errno=True)


def restrict(directories: Mapping[str, int]) -> bool:
    """Forbid everything, except certain rights below `directories`, for good.

    Needs no_new_privs. Returns False where the kernel has no Landlock. Raises OSError.
    """
    try:
        version = _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    ruleset = _call(_CREATE_RULESET, *_everything(version), 0)
    for path, rights in directories.items():
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, directory)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        os.close(directory)
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _everything(version: int) -> tuple[bytes, ctypes.c_size_t]:
    files = 13 + (version >= 2) + (version >= 3) + (version >= 5)  # REFER, TRUNCATE, IOCTL_DEV
    networks = 2 if version >= 4 else 0  # BIND_TCP, CONNECT_TCP
    others = 2 if version >= 6 else 0  # ABSTRACT_UNIX_SOCKET, SIGNAL
    return (
        _RULESET.pack(*((1 << count) - 1 for count in (files, networks, others))),
        ctypes.c_size_t(_RULESET.size),
    )


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
