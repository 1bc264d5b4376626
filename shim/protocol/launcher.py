"""The message from the launcher to the monitor. There is one, and no answer."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from shim.protocol.link import Message, role
from shim.protocol.netfilter import Chains

NETNS_COOKIE: Final = 71
"""socket(7), SO_NETNS_COOKIE: since 5.14."""


class Serve(Message, frozen=True, tag="serve"):
    """Serve the client, and end when it has ended.

    Carries the link to the client; the link to the gate and the listener that the client gets; the
    journal; the lock, held as long as a process may undo; a descriptor that becomes readable with
    the end of the supervisor; the netlink sockets, for routes and for netfilter.
    """

    SIZE: ClassVar[int] = 1 << 17
    FDS: ClassVar[int] = 8

    families: tuple[Literal[4, 6], ...]
    """Those that the kernel has."""
    routes: tuple[str, ...]
    """Captured prefixes lie in one of these."""
    netns: bytes
    """The cookie of the network that is changed (socket(7), SO_NETNS_COOKIE).

    Empty before Linux 5.14.
    """
    filters: tuple[Chains, Chains]
    """The kill switch, without and with the local network."""
    program: bytes
    """The system call filter of the monitor."""


MONITOR_OF_LAUNCHER: Final = role(Serve)
