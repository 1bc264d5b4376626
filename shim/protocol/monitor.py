"""The messages between the client and the monitor of `up`."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from shim.protocol.common import Failed, Hello, Missing
from shim.protocol.link import Message, role

MAX_PREFIXES: Final = 512
MAX_PAUSE_S: Final = 3600


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An address prefix: 4 or 16 bytes in network order, and its length in bits."""

    address: bytes
    length: int


# client → monitor


class Mark(Message, frozen=True, tag="mark"):
    """Have the packets of a TCP or UDP socket of this network leave outside the tunnel."""

    FDS: ClassVar[int] = 1


class Capture(Message, frozen=True, tag="capture"):
    """Route these through the tunnel. `everything` means both default routes.

    `names` captures port 53 of every resolver, whatever its address. With `kill_switch` nothing
    leaves outside the tunnel, whatever happens, until `Down`; `lan` then keeps the local network
    reachable.
    """

    SIZE: ClassVar[int] = 64 + 32 * MAX_PREFIXES

    everything: bool
    names: bool
    prefixes: tuple[Prefix, ...]
    kill_switch: bool = False
    lan: bool = True


class Pause(Message, frozen=True, tag="pause"):
    """Capture nothing and block nothing for a while, at most `MAX_PAUSE_S`; 0 ends a pause."""

    seconds: int


class Down(Message, frozen=True, tag="down"):
    """Take everything down. The monitor exits; the link closes when it is done."""


# monitor → client


class Welcome(Message, frozen=True, tag="welcome"):
    """The monitor is ready. Carries the link to the gate and the listener of the client."""

    FDS: ClassVar[int] = 2

    version: int
    device: str
    missing: tuple[Missing, ...]
    """The means of confinement that the privileged side lacks."""


class Marked(Message, frozen=True, tag="marked"):
    """The socket is marked."""


class Captured(Message, frozen=True, tag="captured"):
    """The routes are in place."""


class Paused(Message, frozen=True, tag="paused"):
    """The pause has begun, or has ended."""


ToMonitor = Hello | Mark | Capture | Pause | Down
FromMonitor = Welcome | Marked | Captured | Paused | Failed

MONITOR: Final = role(ToMonitor)
CLIENT_OF_MONITOR: Final = role(FromMonitor)
