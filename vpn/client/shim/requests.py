"""The requests to one process of the shim, and its replies, which come in the same order."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TypeVar

from shim.protocol.common import Failed
from shim.protocol.link import Link, Message
from vpn.client.shim.faults import explain
from vpn.client.shim.link import AsyncLink, close_all
from vpn.errors import OverlayError

M = TypeVar("M", bound=Message)

_TIMEOUT_S = 15.0


class RequestLink:
    """The client's end of a link on which one request has one reply."""

    def __init__(self, link: Link) -> None:
        self._questions: deque[asyncio.Future[tuple[Message, list[int]]]] = deque()
        self._link = AsyncLink(link, self._on_message)
        self._link.closed.add_done_callback(self._on_closed)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the link has closed."""
        return self._link.closed

    def close(self) -> None:
        """Close the link: the process at the other end undoes its changes and exits."""
        self._link.close()

    async def ask(self, question: Message, answer: type[M], *fds: int) -> tuple[M, list[int]]:
        """Return the reply and its descriptors. Raises OverlayError, also after 15 s without one.

        `fds` go with the request, and are closed once they are sent.
        """
        if self._link.closed.done():
            close_all(fds)
            raise _gone()
        future: asyncio.Future[tuple[Message, list[int]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._questions.append(future)
        self._link.send(question, fds)
        try:
            message, answered = await asyncio.wait_for(asyncio.shield(future), _TIMEOUT_S)
        except BaseException as error:
            # Nobody waits for the answer any more: one that has come, or comes, is closed.
            if not future.cancel() and future.exception() is None:
                close_all(future.result()[1])
            if isinstance(error, TimeoutError):
                raise _deaf() from None
            raise
        if isinstance(message, answer):
            return message, answered
        close_all(answered)
        raise explain(message) if isinstance(message, Failed) else _gone()

    async def ask_for_socket(self, question: Message, answer: type[Message]) -> socket.socket:
        """Return the non-blocking socket that comes with an answer. Raises OSError."""
        try:
            _, (fd,) = await self.ask(question, answer)
        except OverlayError as error:
            raise OSError(str(error)) from error
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return sock

    def _on_message(self, message: Message, fds: list[int]) -> None:
        if not self._questions:
            close_all(fds)
            self._link.close()
            return
        future = self._questions.popleft()
        if future.cancelled():
            close_all(fds)
        else:
            future.set_result((message, fds))

    def _on_closed(self, _: asyncio.Future[None]) -> None:
        for future in self._questions:
            if not future.done():
                future.set_exception(_gone())


def _deaf() -> OverlayError:
    return OverlayError(
        "the privileged part does not answer; run 'overlay-vpn recover' as root, then again"
    )


def _gone() -> OverlayError:
    return OverlayError("the privileged part has ended; run it again")
