"""Going to the background in a way that the foreground can trust.

The parent waits until the child says that it is usable, or why it is not, and exits with that.
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
    """What the background process reported."""

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
    os.close(writing)
    with open(reading, "rb") as pipe:
        try:
            packed = pipe.read()
        except KeyboardInterrupt:
            # Nobody waits for it any more: it must not come up behind the user's back.
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
        """Tell the parent, and once it has gone, whoever reads the log."""
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
    except Exception as error:  # the last line of a process without a caller
        status = Exit.FAILURE
        report(status, f"unexpected {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def open_log(log: Path) -> int:
    """Return the log, as the last run has left it; without a place for it, what leads nowhere."""
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def redirect(log: int) -> None:
    """Send what is said from now on to a log, of this run alone."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    with suppress(OSError):
        os.ftruncate(log, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
