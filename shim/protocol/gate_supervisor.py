"""The messages between the launcher and the gate supervisor."""

from __future__ import annotations

from typing import ClassVar, Final

from shim.protocol.link import Message, role

# launcher → supervisor


class Keep(Message, frozen=True, tag="keep"):
    """Keep a gate. Carries the capture TUN, the flow TUN and the listener of the flow namespace."""

    FDS: ClassVar[int] = 3

    is_flow_namespace: bool
    """Whether the flow namespace is that of the supervisor; else it has none to be in yet."""


# supervisor → launcher


class Keeping(Message, frozen=True, tag="keeping"):
    """The supervisor has taken the descriptors, and starts a gate."""


SUPERVISOR: Final = role(Keep)
LAUNCHER_OF_SUPERVISOR: Final = role(Keeping)
