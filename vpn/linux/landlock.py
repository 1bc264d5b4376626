"""Landlock: access of this thread restricted to some files and directories.

The restriction holds for the thread that calls and for those that it creates later. Source:
landlock(7), linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

# linux/landlock.h; the numbers of the calls are the same on every machine.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_OF_FILES: Final = _READ_FILE | _WRITE_FILE
_SCOPES: Final = 3
"""Abstract Unix sockets and signals, from version 6 on."""

_libc = ctypes.CDLL(None, use_errno=True)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Deny this thread every file and directory but these, of which some may not exist.

    Returns False where the kernel has no Landlock. Raises OSError.
    """
    try:
        version = _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    files = (1 << 13 + (version >= 2) + (version >= 3) + (version >= 5)) - 1
    attributes = struct.pack("QQQ", files, 0, _SCOPES if version >= 6 else 0)
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for paths, rights in ((readable, _READ_FILE | _READ_DIR), (writable, _OF_FILES)):
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, Path(path).expanduser(), rights)
    _syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        applicable = rights if path.is_dir() else rights & _OF_FILES
        _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", applicable, opened), 0)
    finally:
        os.close(opened)


def _syscall(number: int, *arguments: object) -> int:
    """Make one of the three system calls of Landlock. Raises OSError."""
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
