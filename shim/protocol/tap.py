"""The messages of a packet tap: copies of packets, from a gate to its reader. None is answered.

The gate's end comes with `shim.protocol.gate.Copy`; the reader of the packets holds the other. What
it does not read in time is lost and counted: the gate does not wait.
"""

from __future__ import annotations

from typing import ClassVar, Final

from shim.protocol.gate import MAX_NAME
from shim.protocol.link import Message, role

SNAP_BYTES: Final = 65535
"""Of a packet at most so much is copied: no IP packet without extensions is longer."""


class Tapped(Message, frozen=True, tag="tapped"):
    """From now on packets are copied. Sent once by each gate."""


class Copied(Message, frozen=True, tag="copied"):
    """A packet that has passed the capture TUN, with its IP header, as the kernel had it.

    `time_ns` counts from 1970; `dropped` is how many were lost since the one before; `length` is
    that of the whole packet. `name` is that which a virtual address stands for: of the
    destination of a packet that goes out, of the source of one that comes in.
    """

    SIZE: ClassVar[int] = 64 + MAX_NAME + SNAP_BYTES

    time_ns: int
    is_outgoing: bool
    dropped: int
    length: int
    name: str
    packet: bytes


FromTap = Tapped | Copied

TAP: Final = role(FromTap)
