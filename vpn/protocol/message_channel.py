"""Messages over a channel: in its datagrams, if it was opened for that and they fit, or its stream.

A message in a datagram may be lost, doubled or overtaken. In the stream it is framed, arrives, and
waits for all that was written before it, of any channel. Nothing queues here: what the channel
does not take now is lost, as on any wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from typing_extensions import override

from vpn.protocol.framing import Frames, frame
from vpn.transport.base import Datagrams


def _ignore() -> None:
    pass


class MessageChannel(asyncio.Protocol):
    """The protocol of a channel that carries messages both ways."""

    def __init__(
        self,
        max_bytes: int,
        on_message: Callable[[bytes], object],
        on_end: Callable[[], object],
        *,
        in_datagrams: bool = False,
        on_pause: Callable[[], object] = _ignore,
        on_resume: Callable[[], object] = _ignore,
    ) -> None:
        """`on_message` raises ValueError for what is no message: then the channel is ended.

        `on_end` is called once, whoever ends it. `max_bytes` is the largest message of the peer.
        `in_datagrams` says that both ends have agreed on datagrams by opening this channel.
        `on_pause` and `on_resume` tell when its stream takes nothing more, and takes it again.
        """
        self._frames = Frames(max_bytes)
        self._on_message = on_message
        self._on_end = on_end
        self._in_datagrams = in_datagrams
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._datagrams: Datagrams | None = None
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self.has_ended = False
        """Whether it takes and brings nothing any more."""

    def send(self, message: bytes) -> bool:
        """Send a message. False if there is no room for it now: then it is lost."""
        transport, datagrams = self._transport, self._datagrams
        if transport is None or transport.is_closing():
            return False
        if datagrams is not None and len(message) <= datagrams.max_bytes:
            return datagrams.send(message)
        if self._is_paused:
            return False
        transport.write(frame(message))
        return True

    def end(self) -> None:
        """End the channel at once; harmless when ended."""
        if self._transport is not None:
            self._transport.abort()
        if not self.has_ended:
            self.has_ended = True
            self._on_end()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._in_datagrams:
            self._datagrams = transport.get_extra_info("datagrams")
        if self._datagrams is not None:
            self._datagrams.on_datagram = lambda data: self._take([data])

    @override
    def data_received(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except ValueError:
            self.end()
        else:
            self._take(messages)

    @override
    def pause_writing(self) -> None:
        self._is_paused = True
        self._on_pause()

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        self._on_resume()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.end()

    def _take(self, messages: list[bytes]) -> None:
        try:
            for message in messages:
                if self.has_ended:
                    return
                self._on_message(message)
        except ValueError:
            self.end()
