"""Starts the privileged side: a fresh interpreter that sees nothing of the caller's environment.

`-I` keeps the current directory, PYTHONPATH and the user's site-packages out of `sys.path`
(python(1)); the environment is not passed on at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

BUSY: Final = 75
"""The exit status of `shim.recover` while an instance runs (sysexits(3), EX_TEMPFAIL)."""

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def spawn(
    module: str, descriptors: Mapping[int, int], settings: Mapping[str, str] | None = None
) -> int:
    """Start a module and return its process id.

    `descriptors` maps its numbers to ours; `settings` is added to its environment.
    """
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-B", "-m", module],
        {**_ENVIRONMENT, **(settings or {})},
        file_actions=actions,
    )
