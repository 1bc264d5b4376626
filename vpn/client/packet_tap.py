"""The capture of a client: it joins the gate and one reader, and sees no packet itself.

There is at most one at a time. It survives the replacement of the gate: the gate's end of the
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
"""Requested; the kernel grants at most wmem_max (socket(7))."""


class PacketTap:
    """The current capture, if there is one."""

    def __init__(self, send: Callable[[Message, tuple[int, ...]], None]) -> None:
        """`send` sends to the current gate, and owns the descriptors."""
        self._send = send
        self._gate_end: socket.socket | None = None
        self._over = asyncio.Event()

    @property
    def is_active(self) -> bool:
        """Whether there is a capture."""
        return self._gate_end is not None

    def begin(self) -> socket.socket | None:
        """Start a capture and return the socket of its reader; None if there is one already.

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
        """Have a gate that has just started copy packets, if there is a capture."""
        if self._gate_end is not None:
            self._send(Copy(), (self._gate_end.dup().detach(),))

    async def wait(self) -> None:
        """Wait until the capture is over."""
        await self._over.wait()

    def end(self) -> None:
        """End the capture. The gate notices when it sends the next packet."""
        if self._gate_end is not None:
            self._gate_end.close()
            self._gate_end = None
            self._over.set()
