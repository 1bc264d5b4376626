"""Notifications to the service manager: sd_notify(3), without its library.

A message is `NAME=value` lines in one datagram to the socket that `NOTIFY_SOCKET` names; a name
that starts with `@` is in the abstract namespace (unix(7)). Nobody is told where there is no
service manager, and one that does not listen is no reason to end.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_ALIVE: Final = "WATCHDOG=1"


def status(text: str) -> str:
    """Return the STATUS= line of a text; a message has no other line end."""
    return f"STATUS={' '.join(text.split())}"


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the interval of WATCHDOG=1, half the time-out (sd_watchdog_enabled(3)).

    None if the manager expects none, or expects it of another process.
    """
    try:
        waits_us = int(environment.get("WATCHDOG_USEC", ""))
        of = int(environment.get("WATCHDOG_PID", pid))
    except ValueError:
        return None
    return waits_us / 2e6 if waits_us > 0 and of == pid else None


class Notifier:
    """The notification socket of the service manager, if there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._alive_every_s = watchdog_s(environment, os.getpid())

    def send(self, *lines: str) -> None:
        """Send one message."""
        if not self._address:
            return
        with (
            suppress(OSError),  # without a descriptor left, too
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto("\n".join(lines).encode(), self._address)

    def keep_alive(self) -> None:
        """Send WATCHDOG=1 for as long as the event loop runs."""
        if self._alive_every_s is not None:
            self.send(_ALIVE)
            asyncio.get_running_loop().call_later(self._alive_every_s, self.keep_alive)
