"""Messages over a channel: in its datagrams, if it was opened for that and they fit, or its stream.

A message in a datagram may be lost, doubled or overtaken. In the stream it is framed, arrives, and
waits for all that was written before it, of any channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from vpn.protocol.framing import Frames, frame
from vpn.transport.base import Datagrams


class MessageChannel:
    """Carries messages both ways, over the channel that it is told of by `begin`."""

    def __init__(
        self,
        max_bytes: int,
        on_message: Callable[[bytes], object],
        on_nonsense: Callable[[], object],
        *,
        in_datagrams: bool,
    ) -> None:
        """`on_message` raises ValueError for what is no message: then `on_nonsense` is called.

        `max_bytes` is the largest message of the peer. `in_datagrams` says that both ends have
        agreed on datagrams by opening this channel.
        """
        self._frames = Frames(max_bytes)
        self._on_message = on_message
        self._on_nonsense = on_nonsense
        self._in_datagrams = in_datagrams
        self._datagrams: Datagrams | None = None
        self._transport: asyncio.Transport | None = None
        self.is_paused = False
        """Whether the stream takes nothing now."""

    def begin(self, transport: asyncio.BaseTransport) -> None:
        """The channel is open."""
        self._transport = cast(asyncio.Transport, transport)
        if self._in_datagrams:
            self._datagrams = transport.get_extra_info("datagrams")
        if self._datagrams is not None:
            self._datagrams.on_datagram = lambda data: self._take([data])

    def feed(self, data: bytes) -> None:
        """Something has come in the stream."""
        try:
            messages = self._frames.feed(data)
        except ValueError:
            self._on_nonsense()
        else:
            self._take(messages)

    def send(self, message: bytes) -> bool:
        """Send a message. False if there is no room for it now: then it is lost, as on any wire."""
        transport, datagrams = self._transport, self._datagrams
        if transport is None or transport.is_closing():
            return False
        if datagrams is not None and len(message) <= datagrams.max_bytes:
            return datagrams.send(message)
        if self.is_paused:
            return False
        transport.write(frame(message))
        return True

    def abort(self) -> None:
        """End the channel, if there is one."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, messages: list[bytes]) -> None:
        try:
            for message in messages:
                self._on_message(message)
        except ValueError:
            self._on_nonsense()
