"""The runs of a user: one control socket each, in a directory that only this user can access.

The socket is the record: a run that listens on it exists, one that does not was killed, and its
socket is removed. No file describes a run, as it could be stale.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from shim.protocol.link import LinkClosedError, ViolationError
from vpn.control.client_connection import NOBODY, Connection
from vpn.control.messages import (
    GetNamespaces,
    GetRun,
    Namespaces,
    RefusedError,
    Request,
    Run,
    RunAnswer,
)
from vpn.errors import ConfigurationError, OverlayError, VersionError
from vpn.linux.namespaces import CLONE_NEWNET, CLONE_NEWUSER, enter

TIMEOUT_S: Final = 5.0


def directory() -> Path:
    """Return the directory, created if needed. Raises ConfigurationError if it is not private."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "overlay-vpn") if base else Path(f"/tmp/overlay-vpn-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {path}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(
            f"{path} is not yours alone; remove it, or set XDG_RUNTIME_DIR to a directory of yours"
        )
    return path


def listen(run_id: str) -> tuple[socket.socket, Path]:
    """Return the listener of a new run, and its path. Raises ConfigurationError, OSError."""
    path = directory() / f"{run_id}.run"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(16)
    listener.setblocking(False)
    return listener, path


def all_runs() -> list[Run]:
    """Return the runs that answer, oldest first; remove the sockets of those that were killed."""
    found = []
    for path in directory().glob("*.run"):
        try:
            with Connection(str(path), GetRun(), TIMEOUT_S) as connection:
                found.append(connection.receive(RunAnswer)[0].run)
        except NOBODY:
            with suppress(FileNotFoundError):
                path.unlink()
        except (OSError, LinkClosedError, ViolationError, RefusedError, VersionError):
            continue  # it cannot be described
    return sorted(found, key=lambda run: run.started)


def namespaces(run_id: str) -> tuple[int, int, int]:
    """Return the user, mount and network namespace of a run. Raises OverlayError."""
    with connect(run_id, GetNamespaces()) as connection:
        try:
            _, (user, mount, network) = connection.receive(Namespaces)
        except (LinkClosedError, TimeoutError, ViolationError, RefusedError):
            raise OverlayError(f"the run {run_id!r} does not let us in") from None
    return user, mount, network


def enter_network(run_id: str) -> None:
    """Enter the user and network namespace of a run for good. Raises OverlayError."""
    user, mount, network = namespaces(run_id)
    os.close(mount)
    try:
        enter(user, CLONE_NEWUSER)
        enter(network, CLONE_NEWNET)
    except OSError as error:
        raise OverlayError(f"cannot enter the run {run_id!r}: {error.strerror}") from error


def connect(run_id: str, request: Request) -> Connection:
    """Make a request of a run. Raises OverlayError if there is no such run."""
    path = directory() / f"{os.path.basename(run_id)}.run"
    try:
        return Connection(str(path), request)
    except OSError:
        raise OverlayError(f"there is no run {run_id!r}; see 'overlay-vpn list'") from None
