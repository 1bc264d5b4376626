"""An SSH connection of asyncssh, changed on both sides for what a tunnel needs.

This file, `vpn.ssh.session.client` and `vpn.ssh.session.server` are the only ones that subclass
asyncssh's connections; each override replaces a method without a leading underscore. Checked
against asyncssh 2.24: the tests of this package fail if a later release calls them no more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_IGNORE, MSG_KEXINIT, MSG_NEWKEYS, OPEN_RESOURCE_SHORTAGE
from asyncssh.misc import ChannelOpenError

from vpn.ssh.session.channel_datagrams import Multiplexer
from vpn.ssh.session.pressure import Pressure
from vpn.ssh.session.window import WindowBudget

# asyncssh writes names, addresses and destinations at the levels below.
logging.getLogger("asyncssh").setLevel(logging.WARNING)

MAX_CHANNELS = 16 << 10  # each may be promised a window of FLOOR_BYTES beyond the budget


class FlowConnection(SSHConnection):
    """An SSH connection that carries flows; mixed in before asyncssh's client or server."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.pressure = Pressure(asyncio.get_running_loop())
        self.windows = WindowBudget()
        self._flows: dict[int, Any] = {}
        self._datagrams: Multiplexer | None = None

    @property
    def datagrams(self) -> Multiplexer | None:
        """The datagrams of the stream, None if it has none. They are lost until this is read."""
        below = self.get_extra_info("datagrams")
        if self._datagrams is None and below is not None:
            self._datagrams = Multiplexer(below)
        return self._datagrams

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Send one SSH message, but no chaff.

        asyncssh puts MSG_IGNORE before every packet against the chosen-plaintext attack on CBC
        (RFC 4251, section 9.3.1). No CBC mode is ever negotiated here.
        """
        if pkttype == MSG_IGNORE:
            return
        if pkttype == MSG_KEXINIT:
            self.pressure.on_key_exchange(is_running=True)
        super().send_packet(pkttype, *args, handler=handler)
        if pkttype == MSG_NEWKEYS:
            self.pressure.on_key_exchange(is_running=False)

    def add_channel(self, chan: Any) -> int:
        """Give a channel its number. Raises ChannelOpenError if there are too many."""
        if len(self._flows) >= MAX_CHANNELS:
            raise ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
        number = super().add_channel(chan)
        self._flows[number] = chan
        return number

    def remove_channel(self, recv_chan: int) -> None:
        """Take a channel's number back."""
        super().remove_channel(recv_chan)
        del self._flows[recv_chan]
        if self._datagrams is not None:
            self._datagrams.close(recv_chan)

    def disconnect(self, code: int, reason: str, lang: str = "en-US") -> None:
        """End the session; flows in mid-transfer end as aborted, not as finished."""
        for channel in list(self._flows.values()):
            channel.abort()
        super().disconnect(code, reason, lang)
