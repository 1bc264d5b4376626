"""The client's part in a capture: it brings the gate and its user together, and sees no packet.

There is at most one at a time, and it goes on when the gate is replaced: the gate's end of the
socket is kept here, and sent to each new gate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from shim.protocol.gate import Copy
from shim.protocol.link import Message

BUFFER_BYTES: Final = 4 << 20
"""Asked for; the kernel gives what it allows (socket(7), wmem_max)."""


class Captures:
    """The capture that there is, or none."""

    def __init__(self, send: Callable[[Message, tuple[int, ...]], None]) -> None:
        """`send` sends to the gate of the moment, and owns the descriptors."""
        self._send = send
        self._gate_end: socket.socket | None = None
        self._over = asyncio.Event()

    def begin(self) -> socket.socket | None:
        """Begin to copy, and return where packets come from; None if there is a capture already.

        Raises OSError.
        """
        if self._gate_end is not None:
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._gate_end = theirs
        self._over.clear()
        self.on_started()
        return ours

    def on_started(self) -> None:
        """There is a gate that copies nothing yet."""
        if self._gate_end is not None:
            self._send(Copy(), (self._gate_end.dup().detach(),))

    async def wait(self) -> None:
        """Wait until the capture is over."""
        await self._over.wait()

    def end(self) -> None:
        """It is over. The gate notices it with the next packet."""
        if self._gate_end is not None:
            self._gate_end.close()
            self._gate_end = None
            self._over.set()
