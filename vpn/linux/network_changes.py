"""Notifications of network changes: rtnetlink(7) multicast groups, and the end of a suspension.

No privilege is needed and nothing is parsed: any message about a link, address or route means
"something may have changed", and so does a queue that has overflowed (ENOBUFS). A notification is
a reason to look, not a fact.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from typing import Final

from vpn.linux.suspension import Suspension

TICK_S: Final = 2.0
_MESSAGE_BYTES: Final = 64 << 10
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, and IFADDR and ROUTE of IPv4 and of IPv6 (linux/rtnetlink.h)."""


class Changes:
    """Calls `on_change` after each change, until closed."""

    def __init__(
        self, on_change: Callable[[], None], boottime: Callable[[], float] | None = None
    ) -> None:
        """`boottime` replaces CLOCK_BOOTTIME, which includes suspensions. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._boottime = boottime or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._suspension = Suspension(self._boottime(), time.monotonic())
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._sock.bind((0, _GROUPS))
        except OSError:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock.fileno(), self._on_readable)
        self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def close(self) -> None:
        """Stop watching."""
        self._tick.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _on_readable(self) -> None:
        try:
            while True:
                self._sock.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                self._loop.remove_reader(self._sock.fileno())
        self._on_change()

    def _on_tick(self) -> None:
        self._tick = self._loop.call_later(TICK_S, self._on_tick)
        if self._suspension.on_tick(self._boottime(), time.monotonic()):
            self._on_change()
