"""Where the state of an instance is. The monitor reaches no path, and does not load this."""

from __future__ import annotations

import os
from typing import Final

RUN_DIRECTORY: Final = "/run/overlay-vpn"


def state_directory(netns: str | int = "/proc/self/ns/net") -> str:
    """Return where the state of a network namespace lives: one instance per namespace.

    `netns` is a path or a descriptor (namespaces(7)); without it, that in which we are.
    """
    return f"{RUN_DIRECTORY}/net-{os.stat(netns).st_ino}"


CONTROL: Final = "client.sock"
"""In the state directory: where the client answers `status` and `down`."""

JOURNAL: Final = "journal"
"""In the state directory: what has been changed, a line of JSON each."""

LOCK: Final = "lock"
"""In the state directory: locked (flock(2)) while an instance runs.

It holds the id of the process that is to be told when the instance is to end.
"""
