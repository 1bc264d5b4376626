"""The processes in a network namespace, found by /proc/PID/ns/net and killed (namespaces(7))."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final

_TIMEOUT_S: Final = 5.0


def end(network: int) -> None:
    """Kill every process in a network namespace, given as a descriptor, for at most 5 s.

    Each is held by a pidfd before its namespace is read, so that a reused process id cannot be
    meant (pidfd_open(2)). It is repeated until none is found, for those that fork meanwhile.
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
