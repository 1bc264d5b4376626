"""Starts the privileged side: a fresh interpreter that sees nothing of the caller's environment.

`-I` keeps the current directory, PYTHONPATH and the user's site-packages out of `sys.path`
(python(1)); the environment is not passed on at all.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from typing import Final

from shim.protocol.link import Link
from shim.protocol.paths import RUN_DIRECTORY
from shim.protocol.resolved import BUS, CLIENT_OF_HOST_DNS, Names
from vpn.client.shim import installation
from vpn.errors import NotPermittedError, OverlayError

BUSY: Final = 75
"""The exit status of `shim.launcher.recover` while an instance runs (sysexits(3), EX_TEMPFAIL)."""

SERVICE: Final = f"{RUN_DIRECTORY}/shim.sock"
"""Where systemd listens for us (overlay-vpn-shim.socket)."""

_LINK: Final = 3
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def spawn(
    module: str, descriptors: Mapping[int, int], settings: Mapping[str, str] | None = None
) -> int:
    """Start a module and return its process id.

    `descriptors` maps its numbers to ours; `settings` is added to its environment. Raises
    ConfigurationError if it would be root, and others could have written it.
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


def monitor() -> tuple[socket.socket, int | None]:
    """Return a link to a monitor: as root to our own, and its launcher's id; else to the service.

    Raises OverlayError.
    """
    if os.geteuid() != 0:
        return _service(), None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return ours, spawn("shim.launcher", {_LINK: theirs.fileno()})


def host_dns(suffixes: tuple[str, ...]) -> tuple[socket.socket | None, int | None]:
    """Start what tells the resolver of this machine that these names, or all, are the tunnel's.

    Returns its link for the client, and its process id; neither where there is no message bus. It
    stays whoever we are now: as root it may set the resolver of a link, else polkit decides.
    Raises ConfigurationError.
    """
    if not os.path.exists(BUS):
        return None, None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = spawn("shim.resolved", {_LINK: theirs.fileno()})
    Link(ours, CLIENT_OF_HOST_DNS).send(Names(suffixes))
    return ours, pid


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
