"""Back-pressure of an SSH connection's stream on the channels that write to it.

asyncssh ignores `pause_writing()` of its transport, and during a key exchange it queues all
channel data: either way a fast sender would fill memory. So channels look at `is_high`
after each write, and join a queue if it is.

When the pressure falls, only a few channels resume in each turn of the event loop, first in, first
out: enough to fill the stream again. The bytes above the stream's high-water mark are
therefore at most one read of each channel that was writing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

CHANNELS_PER_TURN = 4  # of one read each, 256 KiB: what the stream has room for


class Writer(Protocol):
    """A channel that has stopped writing because of the pressure."""

    def on_relief(self) -> None:
        """Resume writing; called once for each `wait`."""
        ...


@dataclass(slots=True)
class Pressure:
    """The pressure of one stream, and the queue of channels that wait for it to fall."""

    _loop: asyncio.AbstractEventLoop
    is_high: bool = field(default=False, init=False)
    _waiting: deque[Writer] = field(default_factory=deque, init=False)
    _is_stream_full: bool = field(default=False, init=False)
    _is_key_exchange: bool = field(default=False, init=False)
    _is_turn_scheduled: bool = field(default=False, init=False)

    def on_stream(self, is_full: bool) -> None:
        """Note that the stream paused or resumed writing."""
        self._is_stream_full = is_full
        self._update()

    def on_key_exchange(self, is_running: bool) -> None:
        """Note that a key exchange began or ended (RFC 4253, section 9)."""
        self._is_key_exchange = is_running
        self._update()

    def wait(self, writer: Writer) -> None:
        """Queue a writer; it must not write until `on_relief`."""
        self._waiting.append(writer)

    def _update(self) -> None:
        self.is_high = self._is_stream_full or self._is_key_exchange
        if not self.is_high:
            self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_turn_scheduled:
            self._is_turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_scheduled = False
        for _ in range(min(CHANNELS_PER_TURN, len(self._waiting))):
            if self.is_high:
                return
            self._waiting.popleft().on_relief()
        if not self.is_high:
            self._schedule()
