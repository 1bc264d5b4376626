"""A UDP socket of an association: datagrams and ICMP errors, to and from anywhere.

It is not connected, so that whoever sends to it is heard (RFC 4787 §5), and errors of routers come
by the error queue, each with the destination that it is about and the router's address (ip(7),
IP_RECVERR; ipv6(7), IPV6_RECVERR).
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

# linux/in.h, linux/in6.h: newer in Python's module than our oldest Python, or never there.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IP_PMTUDISC_DO: Final = 2
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25

_EXTENDED: Final = struct.Struct("=IBBBxII")
"""`struct sock_extended_err` (linux/errqueue.h): errno, origin, type, code, info, data."""
_ORIGIN_LOCAL: Final = 1
_INT: Final = struct.Struct("=i")
_MAX_BYTES: Final = 65535
_CONTROL_BYTES: Final = 512
_BUFFER_BYTES: Final = 1 << 20

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
LOST: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""Errors of send(2) that are a loss like any other."""


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram has come from an address and port."""

    address: str
    port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Error:
    """An ICMP error about a datagram to an address and port. `router` has sent it."""

    address: str
    port: int
    kind: int
    code: int
    mtu: int
    router: str


class DatagramSocket:
    """A socket of a family, 4 or 6. Raises OSError."""

    def __init__(self, family: int) -> None:
        self._is_v4 = family == 4
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(FAMILIES[family], kind)
        if self._is_v4:
            self._level, self._error_option = socket.IPPROTO_IP, _IP_RECVERR
            self._hops_option = socket.IP_TTL
            self._sock.setsockopt(self._level, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        else:
            self._level, self._error_option = socket.IPPROTO_IPV6, _IPV6_RECVERR
            self._hops_option = socket.IPV6_HOPLIMIT
            self._sock.setsockopt(self._level, socket.IPV6_V6ONLY, 1)
        self._may_fragment = True
        self._sock.setsockopt(self._level, self._error_option, 1)
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

    def receive_error(self) -> Error | None:
        """Return the next error of a router or destination, or None if there is none now."""
        while True:
            try:
                _, control, _, destination = self._sock.recvmsg(
                    0, _CONTROL_BYTES, socket.MSG_ERRQUEUE
                )
            except OSError:
                # One that found no room in the queue is still said, until it is asked for.
                self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return None
            for level, kind, value in control:
                if (level, kind) == (self._level, self._error_option):
                    error = self._error(value, destination[0].partition("%")[0], destination[1])
                    if error is not None:
                        return error

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _error(self, value: bytes, address: str, port: int) -> Error | None:
        if len(value) < _EXTENDED.size or not port:
            return None
        number, origin, kind, code, info, _ = _EXTENDED.unpack_from(value)
        too_big = (3, 4) if self._is_v4 else (2, 0)
        if origin == _ORIGIN_LOCAL:
            is_too_big = number == errno.EMSGSIZE
            return Error(address, port, *too_big, info, "") if is_too_big else None
        mtu = info if (kind, code) == too_big else 0
        return Error(address, port, kind, code, mtu, self._offender(value[_EXTENDED.size :]))

    def _offender(self, sockaddr: bytes) -> str:
        """Return the address in a `struct sockaddr_in` or `sockaddr_in6`, "" if it is none."""
        part = sockaddr[4:8] if self._is_v4 else sockaddr[8:24]
        if len(part) not in (4, 16) or not any(part):
            return ""
        return socket.inet_ntop(socket.AF_INET if self._is_v4 else socket.AF_INET6, part)
