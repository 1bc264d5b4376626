"""DNS messages over a stream: two octets of length, then the message (RFC 7766 §8).

Memory is bounded by the format: at most one incomplete message waits, of at most 65535 octets.
"""

from __future__ import annotations

import struct

_LENGTH = struct.Struct("!H")
MAX_MESSAGE = 0xFFFF


def frame(message: bytes) -> bytes:
    """Return `message` behind its length. Raises ValueError where that does not fit."""
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(message)} octets cannot be framed")
    return _LENGTH.pack(len(message)) + message


class Framing:
    """Splits one direction of a stream into messages.

    `max_message` is the largest message, in octets, that the peer may send. Each stream may leave
    that much waiting, so a server of many streams allows less than the format does. `length` is
    how the length before each message is written.
    """

    def __init__(self, max_message: int = MAX_MESSAGE, length: struct.Struct = _LENGTH) -> None:
        self._max_message = max_message
        self._length = length
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, in order.

        Raises ValueError if the peer announces more than `max_message`. The next message cannot
        be found then, and the stream is to be closed.
        """
        buffer, prefix = self._buffer, self._length
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= prefix.size:
            (length,) = prefix.unpack_from(buffer, start)
            if length > self._max_message:
                raise ValueError(f"a message of {length} octets is announced")
            end = start + prefix.size + length
            if end > len(buffer):
                break
            messages.append(bytes(buffer[start + prefix.size : end]))
            start = end
        del buffer[:start]
        return messages
