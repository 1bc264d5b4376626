"""The packet tap: copies of what passes the capture TUN. It costs nothing while it is closed.

Theory of operation
-------------------
There is at most one tap: a socket from the client, which has given the other end to its user. A
copy that finds no room is lost and counted, and the next one carries the count; the gate never
waits. That the reader has gone is noticed by the next copy, which closes the tap.

Partial checksums and segments of up to 64 KiB are copied as they are: the kernel fills in and cuts
on its side of the device.
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
    """The tap of a gate; closed at first."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._link: Link | None = None
        self._dropped = 0
        self.is_on = False
        """Whether the tap is open."""

    def open(self, fd: int) -> None:
        """Open the tap into this socket, in place of the one before. Raises ViolationError."""
        link = adopt(fd, TAP)
        self.close()
        self._link, self.is_on = link, True
        self._dropped = 0
        self._send(Tapped())

    def close(self) -> None:
        """Close the tap; without one, do nothing."""
        self.is_on = False
        if self._link is not None:
            self._link.close()
            self._link = None

    def copy(self, framed: bytes | memoryview, *, is_outgoing: bool) -> None:
        """Copy a packet, behind its virtio header, that has just been read or written."""
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
        """Return the name that the far end's virtual address stands for; else empty."""
        version = packet[0] >> 4 if packet else 0
        place = (_DESTINATION if is_outgoing else _SOURCE).get(version)
        if place is None or len(packet) < place.stop:
            return ""
        _, name = self._names.target(packet[place]) or ("", None)
        return (name or "")[:MAX_NAME]
