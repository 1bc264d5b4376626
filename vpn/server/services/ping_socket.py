"""A ping socket: echo requests out, echo replies and ICMP errors in, without a privilege.

The kernel chooses the identifier, sums the message and gives the socket only what answers it
(icmp(7); net.ipv4.ping_group_range says who may have one, for both families). Errors of routers
come by the error queue, with the router's address and the start of the request that they are about
(ip(7), IP_RECVERR; ipv6(7), IPV6_RECVERR).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

# linux/in.h, linux/in6.h: newer in Python's module than our oldest Python, or never there.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IP_PMTUDISC_WANT: Final = 1
_IP_RECVERR: Final = 11
_IP_RECVTTL: Final = 12
_IPV6_RECVERR: Final = 25

_EXTENDED: Final = struct.Struct("=IBBBxII")
"""`struct sock_extended_err` (linux/errqueue.h): errno, origin, type, code, info, data."""
_ORIGIN_LOCAL: Final = 1
_INT: Final = struct.Struct("=i")
_HOP_LIMITS: Final = (socket.IP_TTL, socket.IPV6_HOPLIMIT)
_HEADER: Final = struct.Struct("!BBHHH")
_ANSWER_BYTES: Final = _HEADER.size + 65535
_CONTROL_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """An echo reply of `address`, and what was left of its hop limit."""

    address: str
    sequence: int
    hop_limit: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Error:
    """An ICMP error about a request, and the address that it came from."""

    sequence: int
    kind: int
    code: int
    mtu: int
    router: str


class Pinger:
    """A ping socket of a family, 4 or 6. Raises OSError, EACCES where it is not allowed."""

    def __init__(self, family: int) -> None:
        self._is_v4 = family == 4
        if self._is_v4:
            address_family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
            options = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IP, _IP_RECVTTL))
        else:
            address_family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
            level = socket.IPPROTO_IPV6
            options = ((level, _IPV6_RECVERR), (level, socket.IPV6_RECVHOPLIMIT))
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(address_family, kind, protocol)
        for level, option in options:
            self._sock.setsockopt(level, option, 1)

    def fileno(self) -> int:
        """Return the descriptor, for select(2) and its kin."""
        return self._sock.fileno()

    def send(
        self, address: str, hop_limit: int, sequence: int, payload: bytes, *, may_fragment: bool
    ) -> None:
        """Send an echo request. Raises OSError.

        One that routers may not fragment is still sent in fragments if it is too large for here.
        """
        sock = self._sock
        if self._is_v4:
            discover = _IP_PMTUDISC_DONT if may_fragment else _IP_PMTUDISC_WANT
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
        message = _HEADER.pack(8 if self._is_v4 else 128, 0, 0, 0, sequence) + payload
        # An error of an earlier request may wait, and would be taken for one of this (ip(7)).
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        sock.sendto(message, (address, 0))

    def receive(self) -> Answer | None:
        """Return the next reply, or None if there is none now."""
        try:
            # What is not there, or is an error that the queue tells of.
            data, control, _, sender = self._sock.recvmsg(_ANSWER_BYTES, _CONTROL_BYTES)
        except OSError:
            return None
        if len(data) < _HEADER.size:
            return None
        hop_limit = 0
        for _, kind, value in control:
            if kind in _HOP_LIMITS:
                (hop_limit,) = _INT.unpack_from(value)
        sequence = _HEADER.unpack_from(data)[4]
        return Answer(sender[0], sequence, hop_limit & 0xFF, data[_HEADER.size :])

    def receive_error(self) -> Error | None:
        """Return the next error, or None if there is none now."""
        while True:
            try:
                data, control, _, _ = self._sock.recvmsg(
                    _ANSWER_BYTES, _CONTROL_BYTES, socket.MSG_ERRQUEUE
                )
            except OSError:
                return None
            for level, kind, value in control:
                if (level, kind) == self._error_option() and len(value) >= _EXTENDED.size:
                    error = self._error(data, value)
                    if error is not None:
                        return error

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _error_option(self) -> tuple[int, int]:
        if self._is_v4:
            return socket.IPPROTO_IP, _IP_RECVERR
        return socket.IPPROTO_IPV6, _IPV6_RECVERR

    def _error(self, quoted: bytes, value: bytes) -> Error | None:
        _, origin, kind, code, info, _ = _EXTENDED.unpack_from(value)
        if origin == _ORIGIN_LOCAL or len(quoted) < _HEADER.size:
            return None  # send(2) has said it already, or a router does not say of what it speaks
        too_big = (3, 4) if self._is_v4 else (2, 0)
        mtu = info if (kind, code) == too_big else 0
        sequence = _HEADER.unpack_from(quoted)[4]
        return Error(sequence, kind, code, mtu, self._offender(value[_EXTENDED.size :]))

    def _offender(self, sockaddr: bytes) -> str:
        """Return the address in a `struct sockaddr_in` or `sockaddr_in6`."""
        if self._is_v4:
            return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
        return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
