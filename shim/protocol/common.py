"""The messages of more than one link."""

from __future__ import annotations

from enum import StrEnum

from shim.protocol.link import Message


class Fault(StrEnum):
    """The reason why a request was not carried out."""

    NO_TUN = "no-tun"
    NOT_PERMITTED = "not-permitted"
    NO_NAMESPACE = "no-namespace"
    RESTRICTED = "restricted"
    TUN_CLOSED = "tun-closed"
    MOUNT = "mount"
    GATE = "gate"
    BUSY = "busy"
    POLICY = "policy"
    NETLINK = "netlink"


class Missing(StrEnum):
    """A means of confinement that the kernel lacks."""

    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


class Failed(Message, frozen=True, tag="failed"):
    """The last request was not carried out, and nothing of it remains. `errno` may be 0."""

    fault: Fault
    errno: int


class Hello(Message, frozen=True, tag="hello"):
    """The first message of a client."""

    version: int
