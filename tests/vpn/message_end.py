"""The far end of a message channel: keeps the messages that are written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from vpn.protocol.framing import Frames


class MessageEnd(asyncio.Transport):
    """A transport of messages up to `max_bytes`, in the form that `decode` gives them."""

    def __init__(
        self, max_bytes: int, decode: Callable[[bytes], Any] = bytes, **extra: object
    ) -> None:
        super().__init__(extra)
        self._frames, self._decode = Frames(max_bytes), decode
        self.sent: list[Any] = []
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.sent += map(self._decode, self._frames.feed(bytes(data)))

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True
