"""Starts the keeper of the gate, which makes the devices; the only program that the shim runs.

The monitor holds neither the devices nor the code that reads packets: what it knows of the keeper
is one link, whose end is the end of everything.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from shim.protocol.common import Failed, Fault
from shim.protocol.keeper import MONITOR_OF_KEEPER, Made, Make
from shim.protocol.link import Link, LinkClosedError, ViolationError

_TIMEOUT_S: Final = 10.0
_ARGUMENTS: Final = ("-I", "-B", "-m", "shim.gate")
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_LINK_FD: Final = 3
_CLIENT_FD: Final = 4


class Keeper:
    """The keeper, seen from outside. `gate` is the client's end of its link to the gate."""

    def __init__(self) -> None:
        """Start it. Nothing of what it is started with comes from the client. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, at_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, at_gate:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *_ARGUMENTS],
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _LINK_FD),
                    (os.POSIX_SPAWN_DUP2, at_gate.fileno(), _CLIENT_FD),
                ],
            )
        self._link = Link(ours, MONITOR_OF_KEEPER)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the keeper has ended."""
        return self._link.fileno()

    def make(self) -> Failed | None:
        """Have the devices made. Returns the answer if they were not."""
        with suppress(LinkClosedError, ViolationError):
            self._link.send(Make())
            select.select([self._link], [], [], _TIMEOUT_S)
            match self._link.receive():
                case Made(), _:
                    return None
                case Failed() as failed, _:
                    return failed
        return Failed(Fault.GATE, 0)

    def end(self) -> None:
        """End it, while that is allowed, and return when the devices are gone."""
        os.kill(self._pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Return when it has ended."""
        os.waitpid(self._pid, 0)
