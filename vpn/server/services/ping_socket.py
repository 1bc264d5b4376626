"""A ping socket: echo requests out, echo replies and ICMP errors in, without a privilege.

The kernel chooses the identifier, sums the message and gives the socket only what answers it
(icmp(7); net.ipv4.ping_group_range says who may have one, for both families). Errors of routers
come by its error queue, with the start of the request that they are about.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from vpn.server.services.error_queue import FAMILIES, ErrorQueue

# linux/in.h: not in Python's module.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IP_PMTUDISC_WANT: Final = 1
_IP_RECVTTL: Final = 12

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


class PingSocket:
    """A ping socket of a family, 4 or 6. Raises OSError, EACCES where it is not allowed."""

    def __init__(self, family: int) -> None:
        self._is_v4 = family == 4
        protocol = socket.IPPROTO_ICMP if self._is_v4 else socket.IPPROTO_ICMPV6
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(FAMILIES[family], kind, protocol)
        if self._is_v4:
            self._sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._errors = ErrorQueue(self._sock, family, _HEADER.size)

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
        """Return the next error, or None if there is none now.

        Those of this machine are left out, send(2) has raised them, and those that quote nothing.
        """
        while (error := self._errors.read()) is not None:
            if not error.is_local and len(error.quoted) == _HEADER.size:
                sequence = _HEADER.unpack(error.quoted)[4]
                return Error(sequence, error.kind, error.code, error.mtu, error.router)
        return None

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
