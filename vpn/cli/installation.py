"""Whether somebody else can write what is about to run as root.

The owner of an installation decides what it does, and no check of ours could stop that: it would
be the owner's too. But a file or a directory that further users may write makes each of them root
as soon as root runs it. A group that has the owner's number is the owner's alone (useradd(8)).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from vpn.errors import ConfigurationError

_PACKAGES = ("dns", "shim", "vpn")


def check() -> None:
    """Raise ConfigurationError if others can write the interpreter, a library or our own code."""
    for path in _everything():
        status = path.stat()
        by_group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, status.st_uid)
        by_others = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if by_group or by_others:
            raise ConfigurationError(
                f"{path} can be written by others, who would run as root; run 'chmod go-w {path}'"
            )


def _everything() -> Iterator[Path]:
    ours = Path(__file__).parents[2]
    tops = [Path(entry) for entry in sys.path if os.path.isdir(entry)]
    executable = Path(sys.executable)
    tops += [executable, executable.resolve(), Path(sys.prefix, "pyvenv.cfg")]
    tops += [ours / name for name in _PACKAGES]
    yield from {parent for top in tops for parent in (top, *top.parents) if parent.exists()}
    # The interpreter's own library is large, and comes from whoever keeps the machine.
    installed = [top for top in tops if top.name in ("site-packages", "dist-packages")]
    for top in (*installed, *tops[-len(_PACKAGES) :]):
        for folder, folders, files in os.walk(top):
            for name in folders + files:
                path = Path(folder, name)
                if path.exists():
                    yield path
