"""Messages over a stream: four octets of length, then that many of the message. Pure."""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct("!I")


def frame(message: bytes) -> bytes:
    """Return a message as it goes over the stream."""
    return _LENGTH.pack(len(message)) + message


class Frames:
    """Takes one direction of a stream apart. At most one incomplete message waits."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is the largest message that the peer may send."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes. Raises ValueError: the stream is to end."""
        buffer = self._buffer
        buffer += data
        found, start = [], 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self._max_bytes:
                raise ValueError(f"a message of {length} octets is announced")
            end = start + _LENGTH.size + length
            if end > len(buffer):
                break
            found.append(bytes(buffer[start + _LENGTH.size : end]))
            start = end
        del buffer[:start]
        return found
