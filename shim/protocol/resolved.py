"""The messages between `up` and the process that configures resolved and NetworkManager."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

import msgspec

from shim.protocol.gate import MAX_NAME, MAX_SUFFIXES
from shim.protocol.link import Message, role

BUS: Final = "/run/dbus/system_bus_socket"
"""Where the system's message bus listens (dbus-daemon(1))."""


class Outcome(StrEnum):
    """The outcome of a request at a service of this machine."""

    ABSENT = "absent"
    DONE = "done"
    REFUSED = "refused"
    SILENT = "silent"
    """It has not answered in time."""
    FAILED = "failed"


# client → resolved helper


class Suffixes(Message, frozen=True, tag="names"):
    """The names that the tunnel answers; no `suffixes` means all. The first message, sent once."""

    SIZE: ClassVar[int] = 64 + MAX_SUFFIXES * (MAX_NAME + 4)

    suffixes: tuple[str, ...]


class Announce(Message, frozen=True, tag="announce"):
    """Names are captured: have them resolved through the capture TUN."""


class Withdraw(Message, frozen=True, tag="withdraw"):
    """Names are no longer captured, or not during a pause."""


# resolved helper → client


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result at one service. `error` is a D-Bus error name, or empty."""

    outcome: Outcome
    error: str = ""


ABSENT: Final = Answer(Outcome.ABSENT)


class Told(Message, frozen=True, tag="told"):
    """The result of `Announce` or `Withdraw`."""

    SIZE: ClassVar[int] = 2048

    resolved: Answer
    network_manager: Answer


ToResolved = Suffixes | Announce | Withdraw

RESOLVED: Final = role(ToResolved)
CLIENT_OF_RESOLVED: Final = role(Told)
