"""The check of file modes before this installation runs as root.

The owner of an installation decides what it does, and no check in it could prevent that. But a
file or a directory that other users can write makes each of them root as soon as root runs it. A
group with the number of the owner is the owner's own (useradd(8), USERGROUPS_ENAB).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vpn.errors import ConfigurationError

_PACKAGES = ("dns", "shim", "vpn")


def check() -> None:
    """Raise ConfigurationError if others can write the interpreter, a library or our own code."""
    for path, status in _everything():
        by_group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, status.st_uid)
        by_others = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if by_group or by_others:
            raise ConfigurationError(
                f"{path} can be written by others, who would run as root; run 'chmod go-w {path}'"
            )


def _everything() -> Iterator[tuple[str, os.stat_result]]:
    ours = Path(__file__).parents[3]
    tops = [Path(entry) for entry in sys.path if os.path.isdir(entry)]
    executable = Path(sys.executable)
    tops += [executable, executable.resolve(), Path(sys.prefix, "pyvenv.cfg")]
    tops += [ours / name for name in _PACKAGES]
    for path in {parent for top in tops for parent in (top, *top.parents)}:
        with suppress(FileNotFoundError):
            yield str(path), path.stat()
    # The interpreter's own library is large, and comes from whoever keeps the machine.
    installed = [top for top in tops if top.name in ("site-packages", "dist-packages")]
    for top in (*installed, *tops[-len(_PACKAGES) :]):
        yield from _below(str(top))


def _below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Walk thousands of files before each start: without an object for each path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a link to nowhere
                yield entry.path, entry.stat()
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(entry.path)
