"""The failures that errors of getaddrinfo(3) and connect(2) on this machine stand for."""

from __future__ import annotations

import errno
import socket
from typing import Final

from vpn.protocol.failure import CAUSES, Failure, OpenFailed

_OF_ERRNO: Final = {number: failure for failure, one in CAUSES.items() for number in one.errnos}
_ANSWERS: Final = frozenset(
    getattr(socket, name) for name in CAUSES[Failure.NXDOMAIN].lookups if hasattr(socket, name)
)
NO_ADDRESS: Final = _ANSWERS - {socket.EAI_NONAME}
"""Errors of getaddrinfo(3) by which a name exists, but has no address, of any or of a family."""
LOST: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""Errors of send(2) that are no failure: a datagram is lost, as on any wire."""
_FIREWALL: Final = "firewall"


def from_error(error: OSError) -> OpenFailed:
    """Return what an error of getaddrinfo(3) or connect(2) means."""
    if isinstance(error, socket.gaierror):
        return OpenFailed(Failure.NXDOMAIN if error.errno in _ANSWERS else Failure.UNAVAILABLE)
    if isinstance(error, TimeoutError):
        return OpenFailed(Failure.ETIMEDOUT)
    failure = _OF_ERRNO.get(error.errno or 0, Failure.UNAVAILABLE)
    return OpenFailed(failure, _FIREWALL if failure is Failure.POLICY else "")
