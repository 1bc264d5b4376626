"""The message from the launcher to the monitor. There is one, and no answer."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from shim.protocol.link import Message, role
from shim.protocol.netfilter import Chains

NETNS_COOKIE: Final = 71
"""socket(7), SO_NETNS_COOKIE: since 5.14."""


class Serve(Message, frozen=True, tag="serve"):
    """Everything is there: serve the client, and end when it has ended.

    Carries the link to the client; its link to the gate and its listener, which it is given; the
    journal; the lock, which nobody takes as long as somebody may undo; what ends with the
    supervisor; the netlink sockets of the network that is changed, for routes and for netfilter.
    """

    SIZE: ClassVar[int] = 1 << 17
    FDS: ClassVar[int] = 8

    families: tuple[Literal[4, 6], ...]
    """Those that the kernel has."""
    routes: tuple[str, ...]
    """What is captured lies in one of these prefixes."""
    netns: bytes
    """What is the same for all sockets of the network that is changed (SO_NETNS_COOKIE).

    Empty where the kernel does not say, before 5.14.
    """
    filters: tuple[Chains, Chains]
    """The kill switch, without and with the local network."""
    program: bytes
    """The system call filter of the monitor."""


MONITOR_OF_LAUNCHER: Final = role(Serve)
