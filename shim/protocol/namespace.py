"""The messages between the client and the namespace of a command, under `run`."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from shim.protocol.common import Failed, Hello, Missing
from shim.protocol.link import Message, role

# namespace → client


class Namespace(Message, frozen=True, tag="namespace"):
    """The namespace of a command is ready.

    Carries the link to its gate, and its user, mount and network namespace.
    """

    FDS: ClassVar[int] = 4

    version: int
    missing: tuple[Missing, ...]
    """The means of confinement that the namespace's process lacks."""


class InnerSocketWanted(Message, frozen=True, tag="inner-socket-wanted"):
    """Asks for a TCP socket inside the namespace. `family` is 4 or 6."""

    family: Literal[4, 6]


class InnerSocket(Message, frozen=True, tag="inner-socket"):
    """A TCP socket inside the namespace, neither bound nor connected."""

    FDS: ClassVar[int] = 1


ToNamespace = Hello | InnerSocketWanted
FromNamespace = Namespace | InnerSocket | Failed

NAMESPACE: Final = role(ToNamespace)
CLIENT_OF_NAMESPACE: Final = role(FromNamespace)
