"""How the command line asks a running client: `status`, `pause`, `down` …, over a Unix socket.

One packet asks, one answers; see `server.py` for the other end.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time

import msgspec

from shim.protocol.paths import CONTROL, JOURNAL, LOCK, state_directory
from vpn.client import questions
from vpn.control.messages import BLOCKED, DOWN, Status
from vpn.errors import NotPermittedError, OverlayError


def query() -> Status:
    """Return the status of the client of this network namespace. Raises OverlayError."""
    try:
        answer = _ask(questions.STATUS, questions.TIMEOUT_S)
        if not answer:  # nobody there, or gone before it could say so
            return BLOCKED if is_blocked() else DOWN
        return msgspec.json.decode(answer, type=Status)
    except (TimeoutError, msgspec.MsgspecError):
        raise OverlayError(
            "the running client does not answer; run 'overlay-vpn down' as root"
        ) from None


def stop(timeout_s: float = 30.0) -> bool:
    """Take down what runs in this network namespace; False if nothing did. Raises OverlayError."""
    try:
        answer = _ask(questions.DOWN, timeout_s)
    except TimeoutError:
        raise OverlayError(f"the client does not answer; end process {owner()} as root") from None
    if answer is None:
        return False
    wait_until_gone(timeout_s)
    return True


def pause(seconds: int) -> bool:
    """Pause what runs in this network namespace; False if nothing did. Raises OverlayError."""
    try:
        answer = _ask(questions.PAUSE + str(seconds).encode(), questions.TIMEOUT_S)
    except TimeoutError:
        answer = b""
    if answer not in (None, questions.DONE):
        raise OverlayError(answer.decode(errors="replace") or "the client does not answer")
    return answer is not None


def is_blocked() -> bool:
    """Whether nobody runs here, and the kill switch of who ran last holds."""
    try:
        with open(f"{state_directory()}/{JOURNAL}", "rb") as file:
            return b'"guard"' in file.read() and owner() is None
    except OSError:
        return False


def owner() -> int | None:
    """Return the process whose end is the end of all; 0 while one begins, None if none runs.

    The number in the lock is to be believed only while somebody holds the lock.
    """
    try:
        with open(f"{state_directory()}/{LOCK}") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
    except (OSError, ValueError):
        pass
    return None


def wait_until_gone(timeout_s: float) -> None:
    """Wait until the last trace is gone. Raises OverlayError when nobody is left to remove it."""
    deadline = time.monotonic() + timeout_s
    while os.path.exists(state_directory()):
        if is_blocked() or time.monotonic() > deadline:
            raise OverlayError("the network is not yet as before; run 'overlay-vpn recover'")
        time.sleep(0.02)


def _ask(question: bytes, timeout_s: float) -> bytes | None:
    sock = connect(timeout_s)
    if sock is None:
        return None
    with sock:
        try:
            sock.sendall(question)
            answer = sock.recv(questions.MAX_PACKET)
        except ConnectionError:
            answer = b""
    if answer == questions.NOT_PERMITTED:
        raise not_permitted()
    return answer


def connect(timeout_s: float) -> socket.socket | None:
    """Return a connection to the client of this network namespace, None if there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    try:
        sock.connect(f"{state_directory()}/{CONTROL}")
    except OSError as error:
        sock.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return None
        raise
    return sock


def not_permitted() -> NotPermittedError:
    """Return the error of who asks the client of somebody else."""
    return NotPermittedError(
        "this overlay-vpn belongs to another user; run it as that user or with sudo"
    )
