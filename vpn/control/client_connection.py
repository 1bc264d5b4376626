"""The client's end of a control connection, without an event loop: short verbs start at once.

Answers are untrusted: root may query another user's client. Whatever breaks a rule of the link is
an error, and never more than that.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self, TypeVar

from shim.protocol.common import Hello
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from vpn.control import messages
from vpn.control.messages import CLIENT, Refusal, Refused, RefusedError, Request, TakeDown
from vpn.errors import NotPermittedError, OverlayError, VersionError

M = TypeVar("M", bound=Message)

NOBODY: Final = (FileNotFoundError, ConnectionRefusedError)
"""What is raised where no server listens."""

_TIMEVAL: Final = struct.Struct("@ll")
_REFUSED: Final = {
    Refusal.NOT_UP: "the tunnel is not up yet; see 'overlay-vpn status'",
    Refusal.NOT_OFFERED: "this tunnel does not do that; see 'overlay-vpn --help'",
    Refusal.BUSY: "there is a capture already; end that one first",
}


class Connection:
    """A connection on which one request has been made."""

    def __init__(self, path: str, request: Request, timeout_s: float | None = None) -> None:
        """Connect to the server at `path`; each answer may take `timeout_s`, or `TIMEOUT_S`.

        Raises one of `NOBODY` if there is none, TimeoutError, and other OSError.
        """
        self._timeout_s = messages.TIMEOUT_S if timeout_s is None else timeout_s
        self._link = Link(connect(path, self._timeout_s), CLIENT)
        self._is_greeted = False
        self._any_version = isinstance(request, TakeDown)
        with suppress(LinkClosedError):  # what it says before it hangs up is still to be read
            self._link.send(Hello(messages.VERSION))
            self._link.send(request)

    def receive(self, kind: type[M]) -> tuple[M, list[int]]:
        """Return the next answer, which is of this kind, and its descriptors.

        Raises TimeoutError, LinkClosedError if the server has gone, ViolationError for what is no
        such answer, RefusedError, and VersionError if the server is of another version.
        """
        if not self._is_greeted:
            self._greet()
        message, fds = receive(self._link, self._timeout_s)
        if isinstance(message, kind):
            return message, fds
        close_all(fds)
        if isinstance(message, Refused):
            raise RefusedError(message.why, message.text)
        raise ViolationError("an answer to another request")

    def _greet(self) -> None:
        try:
            hello, fds = receive(self._link, self._timeout_s)
        except ViolationError:
            raise VersionError from None
        close_all(fds)
        is_ours = isinstance(hello, Hello) and hello.version == messages.VERSION
        if not (is_ours or self._any_version):
            raise VersionError
        self._is_greeted = True

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def receive(link: Link, timeout_s: float | None = None) -> tuple[Message, list[int]]:
    """Return the next message of a link and its descriptors. Without a timeout, wait for ever.

    Raises TimeoutError, ViolationError, LinkClosedError at the end.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while (received := link.receive()) is None:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not select.select([link], [], [], left_s)[0]:
            raise TimeoutError
    return received


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def error_of(refused: RefusedError) -> OverlayError:
    """Return the error with which a refused request reaches the user."""
    if refused.why is Refusal.NOT_PERMITTED:
        return not_permitted()
    return OverlayError(_REFUSED.get(refused.why) or refused.text or refused.why.value)


def not_permitted() -> NotPermittedError:
    """Return the error of a user who asks another user's client."""
    return NotPermittedError(
        "this overlay-vpn belongs to another user; run it as that user or with sudo"
    )


def connect(path: str, timeout_s: float | None = None) -> socket.socket:
    """Return a socket that is connected to the server at `path`. Raises as `Connection` does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # For so long a backlog that is full is waited for (unix(7), socket(7)).
        seconds, part = divmod(messages.TIMEOUT_S if timeout_s is None else timeout_s, 1)
        timeval = _TIMEVAL.pack(int(seconds), int(part * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise TimeoutError from None
    except BaseException:
        sock.close()
        raise
    return sock
