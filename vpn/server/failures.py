"""What errors of getaddrinfo(3) and connect(2) mean to whoever asked for the flow."""

from __future__ import annotations

import errno
import socket

from vpn.protocol.failure import Failure, OpenFailed

_FROM_ERRNO = {
    errno.ECONNREFUSED: Failure.ECONNREFUSED,
    errno.ECONNRESET: Failure.ECONNREFUSED,
    errno.EHOSTUNREACH: Failure.EHOSTUNREACH,
    errno.EHOSTDOWN: Failure.EHOSTUNREACH,
    errno.ENETUNREACH: Failure.ENETUNREACH,
    errno.ENETDOWN: Failure.ENETUNREACH,
    errno.EADDRNOTAVAIL: Failure.ENETUNREACH,
    errno.EAFNOSUPPORT: Failure.ENETUNREACH,
    errno.ETIMEDOUT: Failure.ETIMEDOUT,
    errno.EACCES: Failure.POLICY,  # ICMPv6 administratively prohibited, or a firewall rule
    errno.EPERM: Failure.POLICY,
}
# Not every C library has the last two.
NO_ADDRESS = {
    getattr(socket, name) for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}
_FIREWALL = "firewall"


def from_error(error: OSError) -> OpenFailed:
    """Return what an error of getaddrinfo(3) or connect(2) means."""
    if isinstance(error, socket.gaierror):
        is_answer = error.errno == socket.EAI_NONAME or error.errno in NO_ADDRESS
        return OpenFailed(Failure.NXDOMAIN if is_answer else Failure.UNAVAILABLE)
    if isinstance(error, TimeoutError):
        return OpenFailed(Failure.ETIMEDOUT)
    failure = _FROM_ERRNO.get(error.errno or 0, Failure.UNAVAILABLE)
    return OpenFailed(failure, _FIREWALL if failure is Failure.POLICY else "")
