"""Ends whatever is left in a network namespace."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final

_TIMEOUT_S: Final = 5.0


def end(network: int) -> None:
    """End every process in a network namespace, given as a descriptor.

    They are held by a pidfd before they are looked at, so that no other process can be meant. A
    process that makes others is told again until none is left.
    """
    inode = os.fstat(network).st_ino
    deadline = time.monotonic() + _TIMEOUT_S
    while _kill(inode) and time.monotonic() < deadline:
        time.sleep(0.005)


def _kill(inode: int) -> bool:
    found = False
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            held = os.pidfd_open(int(name))
            try:
                if os.stat(f"/proc/{name}/ns/net").st_ino == inode and _is_alive(name):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    found = True
            finally:
                os.close(held)
    return found


def _is_alive(name: str) -> bool:
    with open(f"/proc/{name}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
