"""The background process of `up`: its parent exits once it is ready, or with its error.

It is a session leader without a terminal (daemon(7)), whose output goes to a log.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from vpn.console import say
from vpn.errors import Exit, OverlayError


class _Outcome(msgspec.Struct):
    status: int
    message: str


class DetachedError(OverlayError):
    """The error that the background process has reported."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = Exit(status)


def detach(child: Callable[[Callable[[], None]], None]) -> None:
    """Run `child` in a session of its own; return when it calls its argument.

    Raises DetachedError with what the child raised before that, OverlayError if it just died.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()
        _run_child(child, writing)
    try:
        os.close(writing)
        with open(reading, "rb") as pipe:
            packed = pipe.read()
    except KeyboardInterrupt:
        # The user has given up: the tunnel must not come up later.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if not packed:
        os.waitpid(pid, 0)
        raise OverlayError("the client ended before it was ready")
    outcome = msgspec.msgpack.decode(packed, type=_Outcome)
    if outcome.status != Exit.OK:
        os.waitpid(pid, 0)
        raise DetachedError(outcome.status, outcome.message)


def _run_child(child: Callable[[Callable[[], None]], None], writing: int) -> None:
    is_reported = False

    def report(status: int, message: str) -> None:
        """Tell the parent, or the log once the parent has been told."""
        nonlocal is_reported
        if is_reported:
            if message:
                say(message)
            return
        is_reported = True
        os.write(writing, msgspec.msgpack.encode(_Outcome(status, message)))
        os.close(writing)

    status: int = Exit.OK
    try:
        child(lambda: report(Exit.OK, ""))
    except OverlayError as error:
        status = error.status
        report(status, str(error))
    except Exception as error:  # nobody above reports it
        status = Exit.FAILURE
        report(status, f"unexpected {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def open_log(log: Path) -> int:
    """Return a descriptor of the log, which is not emptied; of /dev/null if it cannot be opened."""
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def redirect(log: int) -> None:
    """Empty the log and send standard output and standard error to it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    with suppress(OSError):
        os.ftruncate(log, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
