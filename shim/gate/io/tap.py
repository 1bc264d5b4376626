"""Copies what passes the capture TUN for whoever captures. Costs nothing as long as nobody does.

Theory of operation
-------------------
There is at most one tap: a socket that the client has sent, and whose other end it has given to
its user. A copy that finds no room is lost and counted, and the next one says so; the gate never
waits. A reader that has gone is noticed by the next copy, and the tap is closed.

Partial checksums and segments of up to 64 KiB are copied as they are: on this side of the device
nobody has filled in or cut anything yet.
"""

from __future__ import annotations

import time
from typing import Final

from shim.gate.resolver import Names
from shim.gate.wire.tun import VNET_HEADER_BYTES
from shim.protocol.gate import MAX_NAME
from shim.protocol.handover import adopt
from shim.protocol.link import Link, LinkClosedError, Message
from shim.protocol.tap import SNAP_BYTES, TAP, Copied, Tapped

SYSCALLS: Final = frozenset({"getsockname", "ioctl", "sendto"})

_DESTINATION: Final = {4: slice(16, 20), 6: slice(24, 40)}
_SOURCE: Final = {4: slice(12, 16), 6: slice(8, 24)}


class Tap:
    """The tap of a gate."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._link: Link | None = None
        self._dropped = 0
        self.is_on = False
        """Whether somebody wants copies."""

    def open(self, fd: int) -> None:
        """Copy into this socket, and into no other one any more. Raises ViolationError."""
        link = adopt(fd, TAP)
        self.close()
        self._link, self.is_on = link, True
        self._dropped = 0
        self._send(Tapped())

    def close(self) -> None:
        """Copy nothing any more."""
        self.is_on = False
        if self._link is not None:
            self._link.close()
            self._link = None

    def copy(self, framed: bytes | memoryview, *, is_outgoing: bool) -> None:
        """Copy a packet behind a virtio header, which has been read or written just now."""
        packet = bytes(framed[VNET_HEADER_BYTES : VNET_HEADER_BYTES + SNAP_BYTES])
        length = len(framed) - VNET_HEADER_BYTES
        name = self._name_of(packet, is_outgoing=is_outgoing)
        if self._send(Copied(time.time_ns(), is_outgoing, self._dropped, length, name, packet)):
            self._dropped = 0
        else:
            self._dropped += 1

    def _send(self, message: Message) -> bool:
        try:
            return self._link is not None and self._link.send(message)
        except LinkClosedError:
            self.close()
            return False

    def _name_of(self, packet: bytes, *, is_outgoing: bool) -> str:
        """Return what the far end's virtual address stands for, empty if it is not one."""
        version = packet[0] >> 4 if packet else 0
        place = (_DESTINATION if is_outgoing else _SOURCE).get(version)
        if place is None or len(packet) < place.stop:
            return ""
        _, name = self._names.target(packet[place]) or ("", None)
        return (name or "")[:MAX_NAME]
