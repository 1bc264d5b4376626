"""The paths of the state of an instance. The monitor can open none, and does not load this."""

from __future__ import annotations

import os
from typing import Final

RUN_DIRECTORY: Final = "/run/overlay-vpn"


def state_directory(netns: str | int = "/proc/self/ns/net") -> str:
    """Return the state directory of a network namespace: one instance per namespace.

    `netns` is a path or a descriptor (namespaces(7)); default: the current namespace.
    """
    return f"{RUN_DIRECTORY}/net-{os.stat(netns).st_ino}"


CONTROL: Final = "client.sock"
"""In the state directory: the control socket of the client."""

JOURNAL: Final = "journal"
"""In the state directory: the changes of the network, a line of JSON each."""

LOCK: Final = "lock"
"""In the state directory: locked (flock(2)) while an instance runs.

It holds the PID that stops the instance when it gets SIGTERM.
"""
