"""Starting the shim: a fresh interpreter that sees nothing of the caller's environment.

`-I` keeps the current directory, PYTHONPATH and the user's site-packages out of `sys.path`
(python(1)); the environment is not passed on at all.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from shim.protocol.link import Link
from shim.protocol.paths import RUN_DIRECTORY
from shim.protocol.resolved import BUS, CLIENT_OF_RESOLVED, Suffixes
from vpn.client.shim import installation
from vpn.errors import NotPermittedError, OverlayError

BUSY: Final = 75
"""The exit status of `shim.launcher.recover` while an instance runs (sysexits(3), EX_TEMPFAIL)."""

SERVICE: Final = f"{RUN_DIRECTORY}/shim.sock"
"""The socket on which systemd starts the launcher (overlay-vpn-shim.socket)."""

_LINK: Final = 3
_MASK_BUS: Final = "OVERLAY_VPN_MASK_BUS"
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def spawn(
    module: str, descriptors: Mapping[int, int], settings: Mapping[str, str] | None = None
) -> int:
    """Start a module in a process of its own and return the process id.

    `descriptors` maps its numbers to ours; `settings` is added to its environment. Raises
    ConfigurationError if it would run as root and other users could have written it.
    """
    if os.geteuid() == 0:
        installation.check()
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-B", "-m", module],
        {**_ENVIRONMENT, **(settings or {})},
        file_actions=actions,
    )


@dataclass(slots=True)
class Shim:
    """The processes of the shim of `up`, by their links and process ids."""

    monitor: socket.socket
    launcher_pid: int | None
    """None where systemd has started the launcher."""
    resolved: socket.socket | None = None
    """None without a message bus, or where no names are captured."""
    resolved_pid: int | None = None

    def close(self) -> None:
        """Close the links, and wait until the network is as it was."""
        for link, pid in ((self.resolved, self.resolved_pid), (self.monitor, self.launcher_pid)):
            if link is not None:
                with suppress(OSError):  # its user has closed it
                    link.close()
            if pid is not None:
                os.waitpid(pid, 0)


@contextmanager
def shim(names: tuple[str, ...] | None) -> Iterator[Shim]:
    """Start the shim of `up`, and wait for its end after the block. Raises OverlayError.

    As root the launcher is our own child, else the service is asked. `names` are the suffixes that
    systemd-resolved is to send to the tunnel; empty for all names, None for none.
    """
    started = Shim(*_monitor())
    try:
        if names is not None:
            started.resolved, started.resolved_pid = _resolved(names)
        yield started
    finally:
        started.close()


def _monitor() -> tuple[socket.socket, int | None]:
    """Return a link to a monitor, and the process id of its launcher if it is ours."""
    if os.geteuid() != 0:
        return _service(), None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return ours, spawn("shim.launcher", {_LINK: theirs.fileno()})


def _resolved(suffixes: tuple[str, ...]) -> tuple[socket.socket | None, int | None]:
    """Start the helper for systemd-resolved, which stays who we are now; see `ResolvedHelper`.

    As root it may set the resolver of a link, else polkit decides.
    """
    if not os.path.exists(BUS):
        return None, None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = spawn("shim.resolved", {_LINK: theirs.fileno()})
    Link(ours, CLIENT_OF_RESOLVED).send(Suffixes(suffixes))
    return ours, pid


def namespace(*, masks_bus: bool) -> tuple[socket.socket, int]:
    """Start the shim of `run`; returns its link and process id.

    `masks_bus` hides the message bus of the system from the command.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        setting = {_MASK_BUS: "1"} if masks_bus else {}
        return ours, spawn("shim.namespace", {_LINK: theirs.fileno()}, setting)


def _service() -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.connect(SERVICE)
    except (FileNotFoundError, ConnectionRefusedError):
        reason = "there is no shim to ask: run it with sudo, or 'sudo overlay-vpn service install"
        raise NotPermittedError(
            f"routing the machine needs root, and {reason} shim' once"
        ) from None
    except PermissionError:
        raise NotPermittedError(
            f"{SERVICE} is not open to you; have root change that, or run it with sudo"
        ) from None
    except OSError as error:
        raise OverlayError(f"the shim at {SERVICE} cannot be reached: {error.strerror}") from None
    return link
