"""How a running client answers the command line: `status`, `pause`, `down` …; see `client.py`.

One packet answers; more than one what is asked about flows (`vpn.client.inspection`). Only root and
the user whose client it is may ask; others get their answer in one word. The peer is whom the
kernel says it is (unix(7), SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from shim.protocol.monitor import MAX_PAUSE_S
from vpn.client import inspection
from vpn.client.answering import Answering, question_of
from vpn.client.questions import DONE, DOWN, NOT_PERMITTED, PAUSE, STATUS
from vpn.control.messages import Status
from vpn.errors import OverlayError

if TYPE_CHECKING:
    from vpn.client.tunnel import Tunnel

_UCRED: Final = struct.Struct("3i")


class ControlServer(Answering):
    """Answers on a listener that the monitor has made."""

    def __init__(
        self,
        listener: socket.socket,
        status: Callable[[], Status],
        down: Callable[[], Awaitable[None]],
        pause: Callable[[int], Awaitable[None]],
        core: Callable[[], Tunnel | None],
    ) -> None:
        """`down` takes everything down, `pause` is given seconds; the answer waits for them.

        `core` is None as long as there are no flows.
        """
        super().__init__(listener, self._answer_one)
        self._status = status
        self._down = down
        self._pause = pause
        self._core = core

    async def _answer_one(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        question = await question_of(sock)
        if _peer_uid(sock) not in (0, os.geteuid()):
            await loop.sock_sendall(sock, NOT_PERMITTED)
        elif question == STATUS:
            await loop.sock_sendall(sock, msgspec.json.encode(self._status()))
        elif question == DOWN:
            await self._down()
            await loop.sock_sendall(sock, DONE)
        elif question.startswith(PAUSE):
            await loop.sock_sendall(sock, await self._pause_for(question.removeprefix(PAUSE)))
        else:
            await inspection.answer(sock, question, self._core())

    async def _pause_for(self, seconds: bytes) -> bytes:
        try:
            await self._pause(min(int(seconds), MAX_PAUSE_S))
        except (OverlayError, ValueError) as error:
            return str(error).encode()
        return DONE


def _peer_uid(sock: socket.socket) -> int:
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
