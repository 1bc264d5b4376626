"""The children of the launcher, gate supervisor and monitor: the only programs that the shim runs.

The launcher holds neither the devices, nor the code that reads packets or the client's messages; of
each child it holds one link. None of the arguments and variables of a child come from the client.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from shim.protocol.gate_supervisor import LAUNCHER_OF_SUPERVISOR, Keep, Keeping
from shim.protocol.launcher import MONITOR_OF_LAUNCHER, Serve
from shim.protocol.link import Link, LinkClosedError, ViolationError

_TIMEOUT_S: Final = 10.0
_ARGUMENTS: Final = ("-I", "-B", "-m")
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _spawn(module: str, *socks: socket.socket) -> int:
    """Start a module with these sockets as its descriptors from 3 on. Raises OSError."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *_ARGUMENTS, module],
        _ENVIRONMENT,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, sock.fileno(), number) for number, sock in enumerate(socks, 3)
        ],
    )


class GateSupervisor:
    """The gate supervisor, as a child. `gate` is the client's end of the link to the gate."""

    def __init__(self) -> None:
        """Start it. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, at_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, at_gate:
            self.pid = _spawn("shim.gate", theirs, at_gate)
        self._link = Link(ours, LAUNCHER_OF_SUPERVISOR)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the supervisor has ended."""
        return self._link.fileno()

    def keep(self, keep: Keep, *fds: int) -> bool:
        """Send it the descriptors of a gate. Returns whether it has acknowledged them in time."""
        with suppress(LinkClosedError, ViolationError):
            self._link.send(keep, fds)
            select.select([self._link], [], [], _TIMEOUT_S)
            match self._link.receive():
                case Keeping(), _:
                    return True
        return False


class Monitor:
    """The monitor, as a child. It ends when the launcher's end of its link closes."""

    def __init__(self) -> None:
        """Start it. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = _spawn("shim.monitor", theirs)
        self._link = Link(ours, MONITOR_OF_LAUNCHER)

    def fileno(self) -> int:
        """Return the descriptor whose closing tells the monitor that the launcher has ended."""
        return self._link.fileno()

    def serve(self, serve: Serve, *fds: int) -> None:
        """Have it serve a client. If it has ended already, waitpid(2) reports that."""
        with suppress(LinkClosedError):
            self._link.send(serve, fds)


def end(*children: GateSupervisor | Monitor) -> None:
    """Kill children, and return when their descriptors are closed."""
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
