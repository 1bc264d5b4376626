"""A UDP socket that answers from the address a datagram was sent to (ip(7), ipv6(7): PKTINFO).

A UDP socket bound to the any-address answers from the address that routing prefers. On a machine
with several addresses that may be another one, and the client drops the answer. So the destination
of a datagram is kept with its source: a peer is `(*sockaddr, local)`, which is also a path in the
terms of RFC 9000 (section 9).
"""

from __future__ import annotations

import socket
import struct
from typing import Any

IP_PKTINFO = 8  # linux/in.h; not in the socket module of Python 3.11
IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address to answer from, destination
IN6_PKTINFO = struct.Struct("=16sI")  # address, interface
ANY_INTERFACE = 0
ANCILLARY_BYTES = socket.CMSG_SPACE(IN6_PKTINFO.size)  # the larger of the two


class AnyAddressSocket:
    """A socket bound to the any-address of its family."""

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        if udp.family == socket.AF_INET6:
            self._level, self._kind = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self._level, self._kind = socket.IPPROTO_IP, IP_PKTINFO
            udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def receive(self, count: int) -> tuple[bytes, tuple[Any, ...]]:
        """Return a datagram and its peer, `(*sockaddr, local)`. Raises OSError."""
        data, ancillary, _, name = self._socket.recvmsg(count, ANCILLARY_BYTES)
        local = ancillary[0][2] if ancillary else b""
        return data, (*name, self._source(local))

    def send(self, data: bytes, peer: tuple[Any, ...]) -> None:
        """Send a datagram to a peer as `receive` returned it. Raises OSError."""
        *name, local = peer
        ancillary = [(self._level, self._kind, local)] if local else []
        self._socket.sendmsg([data], ancillary, 0, tuple(name))

    def _source(self, local: bytes) -> bytes:
        """Return the control message that sends an answer from where a datagram was sent to.

        The interface is left to routing: an answer need not leave by the one it came in.
        """
        if len(local) == IN6_PKTINFO.size:
            address, _ = IN6_PKTINFO.unpack(local)
            return IN6_PKTINFO.pack(address, ANY_INTERFACE)
        if len(local) == IN_PKTINFO.size:
            _, address, _ = IN_PKTINFO.unpack(local)
            return IN_PKTINFO.pack(ANY_INTERFACE, address, bytes(4))
        return b""
