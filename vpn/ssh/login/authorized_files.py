"""The authorized_keys files of a server, read for each login: a removed key is refused at once."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from vpn.ssh.login.authorized_keys import AuthorizedKeys
from vpn.ssh.login.authorized_parser import parse

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_Stamp = tuple[int, int, int, int]


class Authorized(Protocol):
    """A source of authorized keys."""

    def read(self) -> AuthorizedKeys:
        """Return the lines as they are now."""
        ...


class AuthorizedFiles:
    """The files of a server. One that others could write to counts as empty (StrictModes)."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._parsed: dict[Path, tuple[_Stamp, AuthorizedKeys]] = {}

    def read(self) -> AuthorizedKeys:
        """Return the lines of all files as they are now; files that did not change are kept."""
        each = [self._read(path) for path in self._paths]
        return AuthorizedKeys(tuple(entry for found in each for entry in found.entries))

    def _read(self, path: Path) -> AuthorizedKeys:
        try:
            with path.expanduser().open("rb") as file:
                status = os.fstat(file.fileno())
                _require_safe(status)
                _require_safe(os.stat(path.expanduser().resolve().parent))
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
                known = self._parsed.get(path)
                if known is not None and known[0] == stamp:
                    return known[1]
                if status.st_size > MAX_BYTES:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                found = parse(file.read(MAX_BYTES).decode("utf-8", "replace"))
        except FileNotFoundError:
            return AuthorizedKeys()
        except OSError as error:
            logger.warning("authorized keys %s ignored: %s", path, error.strerror or error)
            return AuthorizedKeys()
        for number, reason in found.refused:
            logger.warning("%s line %d ignored: %s", path, number, reason)
        self._parsed[path] = (stamp, found)
        return found


def _require_safe(status: os.stat_result) -> None:
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(0, "it or its directory can be written by others; run chmod go-w")
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(0, "it or its directory belongs to another user")
