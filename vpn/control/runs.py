"""The runs of a user: one socket each, in a directory that nobody else can look into.

The socket is the entry: a run that answers on it is there, one that does not has been killed and
is removed. What a run says of itself is never kept in a file that could be stale.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from vpn.errors import ConfigurationError, OverlayError
from vpn.linux.namespaces import CLONE_NEWNET, CLONE_NEWUSER, enter

TIMEOUT_S: Final = 5.0
MAX_PACKET: Final = 65536
STATUS: Final = b"status"
ENTER: Final = b"enter"


class Run(msgspec.Struct, frozen=True):
    """What a run says of itself. `started` is in unix seconds."""

    id: str
    pid: int
    target: str
    command: tuple[str, ...]
    started: float


def directory() -> Path:
    """Return the directory, made if need be. Raises ConfigurationError if it is not ours alone."""
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
    """Return the runs that are there, oldest first; remove what those that were killed left."""
    found = []
    for path in directory().glob("*.run"):
        try:
            answer, _ = _ask(path, STATUS, 0)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        except OSError:
            continue
        with suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(answer, type=Run))
    return sorted(found, key=lambda run: run.started)


def namespaces(run_id: str) -> tuple[int, int, int]:
    """Return the user, mount and network namespace of a run. Raises OverlayError."""
    try:
        _, fds = _ask(_path(run_id), ENTER, 3)
    except OSError:
        raise _no_run(run_id) from None
    if len(fds) != 3:
        raise OverlayError(f"the run {run_id!r} does not let us in")
    return fds[0], fds[1], fds[2]


def enter_network(run_id: str) -> None:
    """Enter the network of a run, for good, and nothing else of it. Raises OverlayError."""
    user, mount, network = namespaces(run_id)
    os.close(mount)
    try:
        enter(user, CLONE_NEWUSER)
        enter(network, CLONE_NEWNET)
    except OSError as error:
        raise OverlayError(f"cannot enter the run {run_id!r}: {error.strerror}") from error


def connect(run_id: str) -> socket.socket:
    """Return a connection to the client of a run. Raises OverlayError."""
    try:
        return _connect(_path(run_id))
    except OSError:
        raise _no_run(run_id) from None


def _path(run_id: str) -> Path:
    return directory() / f"{os.path.basename(run_id)}.run"


def _no_run(run_id: str) -> OverlayError:
    return OverlayError(f"there is no run {run_id!r}; see 'overlay-vpn list'")


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def _ask(path: Path, question: bytes, fds: int) -> tuple[bytes, list[int]]:
    with _connect(path) as sock:
        sock.sendall(question)
        answer, received, _, _ = socket.recv_fds(sock, MAX_PACKET, fds)
        return answer, received
