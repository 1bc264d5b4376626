"""The errors of a ping socket; the rest needs a real one (netns-tests/test_echo.py)."""

from __future__ import annotations

import struct

from vpn.server.services.error_queue import QueuedError
from vpn.server.services.ping_socket import Error, PingSocket


def queued(quoted: bytes, *, is_local: bool = False) -> QueuedError:
    return QueuedError("192.0.2.1", 0, 11, 0, 0, "198.51.100.1", quoted, is_local)


class Queue:
    """An error queue that has these errors."""

    def __init__(self, *errors: QueuedError) -> None:
        self._errors = list(errors)

    def read(self) -> QueuedError | None:
        return self._errors.pop(0) if self._errors else None


def test_error_is_about_the_request_that_it_quotes() -> None:
    request = struct.pack("!BBHHH", 8, 0, 0, 99, 7)
    sock = object.__new__(PingSocket)
    sock._errors = Queue(  # type: ignore[assignment]
        queued(request, is_local=True), queued(request[:7]), queued(request), queued(b"")
    )
    assert sock.receive_error() == Error(7, 11, 0, 0, "198.51.100.1")
    assert sock.receive_error() is None
