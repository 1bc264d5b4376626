"""A UDP socket of an association: datagrams and ICMP errors, to and from anywhere.

It is not connected, so that whoever sends to it is heard (RFC 4787 §5); errors come by its error
queue.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from vpn.server.failures import LOST
from vpn.server.services.error_queue import FAMILIES, ErrorQueue, QueuedError

# linux/in.h: not in Python's module.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IP_PMTUDISC_DO: Final = 2
_INT: Final = struct.Struct("=i")
_MAX_BYTES: Final = 65535
_BUFFER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram has come from an address and port."""

    address: str
    port: int
    payload: bytes


class DatagramSocket:
    """A socket of a family, 4 or 6. Raises OSError."""

    def __init__(self, family: int) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._is_v4 = family == 4
        self._sock = socket.socket(FAMILIES[family], kind)
        if self._is_v4:
            self._level, self._hops_option = socket.IPPROTO_IP, socket.IP_TTL
            self._sock.setsockopt(self._level, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        else:
            self._level, self._hops_option = socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT
            self._sock.setsockopt(self._level, socket.IPV6_V6ONLY, 1)
        self._may_fragment = True
        self._errors = ErrorQueue(self._sock, family)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._sock.bind(("0.0.0.0" if self._is_v4 else "::", 0))

    def fileno(self) -> int:
        """Return the descriptor, for select(2) and its kin."""
        return self._sock.fileno()

    def send(
        self, address: str, port: int, hop_limit: int, payload: bytes, *, may_fragment: bool
    ) -> None:
        """Send a datagram. Raises OSError, whose errno may be one of `LOST`."""
        sock = self._sock
        if self._is_v4 and may_fragment != self._may_fragment:
            self._may_fragment = may_fragment
            discover = _IP_PMTUDISC_DONT if may_fragment else _IP_PMTUDISC_DO
            sock.setsockopt(self._level, _IP_MTU_DISCOVER, discover)
        control = [(self._level, self._hops_option, _INT.pack(hop_limit))]
        try:
            sock.sendmsg((payload,), control, 0, (address, port))
        except OSError as error:
            if error.errno in LOST or error.errno == errno.EMSGSIZE:
                raise
            # It may be an error of an earlier datagram, told now and in the queue (udp(7)).
            sock.sendmsg((payload,), control, 0, (address, port))

    def receive(self) -> Received | None:
        """Return the next datagram, or None if there is none now."""
        try:
            payload, sender = self._sock.recvfrom(_MAX_BYTES)
        except OSError:
            return None  # nothing there, or an error that the queue tells of
        return Received(sender[0].partition("%")[0], sender[1], payload)

    def receive_error(self) -> QueuedError | None:
        """Return the next error of a router or destination, or None if there is none now."""
        while (error := self._errors.read()) is not None:
            if error.port:
                return error
        return None

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
