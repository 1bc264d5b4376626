"""The client's end of the link to the helper that configures systemd-resolved and NetworkManager.

Names go through the tunnel without it, too, as port 53 is captured at any address. With it,
systemd-resolved sends them to the link of the tunnel and not to one of its own choice. So no error
here is a reason to fail, or to wait for long.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from shim.protocol.link import Link, Message
from shim.protocol.resolved import (
    ABSENT,
    CLIENT_OF_RESOLVED,
    Announce,
    Answer,
    Outcome,
    Told,
    Withdraw,
)
from vpn.client.shim.link import AsyncLink, close_all

START_PATIENCE_S: Final = 2.0

_RESOLVED: Final = {
    Outcome.REFUSED: "systemd-resolved does not let us set the resolver of our link",
    Outcome.SILENT: "systemd-resolved does not answer",
    Outcome.FAILED: "systemd-resolved has not taken the resolver of our link",
}
_BESIDE_RESOLVED: Final = "names are captured on their way to whatever resolver it asks"
_MANAGER: Final = {
    Outcome.REFUSED: "NetworkManager does not let us have our device left alone",
    Outcome.SILENT: "NetworkManager does not answer",
    Outcome.FAILED: "NetworkManager has not been told to leave our device alone",
}
_BESIDE_MANAGER: Final = "name the device in unmanaged-devices if it interferes"
NOT_TOLD: Final = Told(ABSENT, ABSENT)


class ResolvedHelper:
    """The helper, and the result of the last configuration."""

    def __init__(self, sock: socket.socket | None) -> None:
        """`sock` is the link to the helper; None where there is no message bus."""
        self.told = NOT_TOLD
        self._answered = asyncio.Event()
        self._resuming: asyncio.TimerHandle | None = None
        self._link = None
        if sock is not None:
            self._link = AsyncLink(Link(sock, CLIENT_OF_RESOLVED), self._on_message)
            self._link.closed.add_done_callback(lambda _: self._answered.set())

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each service that could not be configured."""
        found = (
            (_RESOLVED, self.told.resolved, _BESIDE_RESOLVED),
            (_MANAGER, self.told.network_manager, _BESIDE_MANAGER),
        )
        return tuple(
            f"{lines[one.outcome]}{f' ({one.error})' if one.error else ''}; {beside}"
            for lines, one, beside in found
            if one.outcome in lines
        )

    async def announce(self) -> None:
        """Have names resolved through the link of the tunnel; wait for at most 2 s."""
        if self._link is None:
            return
        self._send(Announce())
        try:
            await asyncio.wait_for(self._answered.wait(), START_PATIENCE_S)
        except TimeoutError:
            self.told = Told(Answer(Outcome.SILENT), ABSENT)

    def pause(self, seconds: int) -> None:
        """Have names resolved as without the tunnel for some seconds; 0 ends that."""
        if self._link is None:
            return
        self._cancel_resuming()
        if seconds:
            self._send(Withdraw())
            loop = asyncio.get_running_loop()
            self._resuming = loop.call_later(seconds, self._send, Announce())
        else:
            self._send(Announce())

    def close(self) -> None:
        """Close the link: the helper undoes its changes and exits."""
        self._cancel_resuming()
        if self._link is not None:
            self._link.close()

    def _cancel_resuming(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None

    def _send(self, message: Message) -> None:
        self._answered.clear()
        if self._link is not None:
            self._link.send(message)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        close_all(fds)
        if isinstance(message, Told):
            self.told = message
            self._answered.set()
