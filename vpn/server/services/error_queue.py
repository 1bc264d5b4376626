"""The error queue of a socket: ICMP errors about what it has sent, with their senders.

Errors of routers come by it, with the address that the packet was for and the start of its payload
(ip(7), IP_RECVERR; ipv6(7), IPV6_RECVERR). So do errors of this machine: a packet that is too big
for a link of its own is reported as a router would.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from vpn.protocol.icmp import PACKET_TOO_BIG

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

# linux/in.h, linux/in6.h: newer in Python's module than our oldest Python, or never there.
_OPTIONS: Final = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
"""Level and number of IP_RECVERR and IPV6_RECVERR, by family."""
_EXTENDED: Final = struct.Struct("=IBBBxII")
"""`struct sock_extended_err` (linux/errqueue.h): errno, origin, type, code, info, data."""
_ADDRESSES: Final = {4: slice(4, 8), 6: slice(8, 24)}
"""The address in a `struct sockaddr_in` and `sockaddr_in6`, by family."""
_LOCAL: Final = 1
_CONTROL_BYTES: Final = 512

Control = Iterable[tuple[int, int, bytes]]


@dataclass(frozen=True, slots=True)
class QueuedError:
    """An ICMP error about a packet to an address and port; port 0 where there is none.

    `mtu` is 0 if the error has none. `router` has sent it; empty for this machine itself, and for
    one that the kernel does not name. `quoted` is the start of what was sent.
    """

    address: str
    port: int
    kind: int
    code: int
    mtu: int
    router: str
    quoted: bytes
    is_local: bool


class ErrorQueue:
    """The errors of one socket of a family, 4 or 6. Raises OSError if it can have no queue."""

    def __init__(self, sock: socket.socket, family: int, quoted_bytes: int = 0) -> None:
        """`quoted_bytes` is the most of a packet that an error is to quote."""
        self._sock = sock
        self._family = family
        self._quoted_bytes = quoted_bytes
        sock.setsockopt(*_OPTIONS[family], 1)

    def read(self) -> QueuedError | None:
        """Return the next error, or None if there is none now."""
        while True:
            try:
                quoted, control, _, name = self._sock.recvmsg(
                    self._quoted_bytes, _CONTROL_BYTES, socket.MSG_ERRQUEUE
                )
            except OSError:
                # One that found no room in the queue is still reported, until it is asked for.
                self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return None
            error = parse(self._family, quoted, control, name)
            if error is not None:
                return error


def parse(family: int, quoted: bytes, control: Control, name: Any) -> QueuedError | None:
    """Return the error in what recvmsg(2) returns of the queue; None if it is no ICMP error."""
    for level, option, value in control:
        if (level, option) == _OPTIONS[family] and len(value) >= _EXTENDED.size:
            break
    else:
        return None
    number, origin, kind, code, info, _ = _EXTENDED.unpack_from(value)
    address, port = (name[0].partition("%")[0], name[1]) if name else ("", 0)
    too_big = PACKET_TOO_BIG[family]
    if origin == _LOCAL:
        if number != errno.EMSGSIZE:
            return None
        return QueuedError(address, port, *too_big, info, "", quoted, True)
    mtu = info if (kind, code) == too_big else 0
    router = _address(family, value[_EXTENDED.size :])
    return QueuedError(address, port, kind, code, mtu, router, quoted, False)


def _address(family: int, sockaddr: bytes) -> str:
    """Return the address in a socket address, empty if it is none."""
    packed = sockaddr[_ADDRESSES[family]]
    if len(packed) not in (4, 16) or not any(packed):
        return ""
    return socket.inet_ntop(FAMILIES[family], packed)
