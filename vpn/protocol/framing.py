"""Messages over a stream: four octets of length, then that many of the message. Pure."""

from __future__ import annotations

import struct
from typing import Final

from dns.framing import Framing

_LENGTH: Final = struct.Struct("!I")


def frame(message: bytes) -> bytes:
    """Return a message as it goes over the stream."""
    return _LENGTH.pack(len(message)) + message


class Frames(Framing):
    """Takes one direction of a stream apart. At most one incomplete message waits."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is the largest message that the peer may send."""
        super().__init__(max_bytes, _LENGTH)
