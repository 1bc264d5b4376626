"""The messages between the warden and the keeper of the gate."""

from __future__ import annotations

from typing import Final

from shim.protocol.common import Failed
from shim.protocol.link import Message, role

# warden → keeper


class Make(Message, frozen=True, tag="make"):
    """Nobody else is up here: the capture TUN may be made."""


# keeper → warden


class Made(Message, frozen=True, tag="made"):
    """The capture TUN and the flow namespace are there; a gate serves them from now on."""


FromKeeper = Made | Failed

KEEPER: Final = role(Make)
WARDEN_OF_KEEPER: Final = role(FromKeeper)
