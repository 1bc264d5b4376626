"""The messages between the warden and the keeper of the gate."""

from __future__ import annotations

from typing import ClassVar, Final

from shim.protocol.link import Message, role

# warden → keeper


class Keep(Message, frozen=True, tag="keep"):
    """All is made. Carries the capture TUN, the flow TUN and the listener of the flow namespace."""

    FDS: ClassVar[int] = 3

    is_flow_namespace: bool
    """Whether the flow namespace is that of the keeper; else it has none to be in yet."""


# keeper → warden


class Keeping(Message, frozen=True, tag="keeping"):
    """A gate serves them from now on."""


KEEPER: Final = role(Keep)
WARDEN_OF_KEEPER: Final = role(Keeping)
