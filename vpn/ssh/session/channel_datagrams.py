"""The datagrams of a connection, each of one of its channels.

Theory of operation
-------------------
A datagram begins with the number by which its receiver knows the channel, as SSH_MSG_CHANNEL_DATA
does (RFC 4254, section 5.2); the rest is the payload. Both numbers were agreed when the channel was
opened, inside SSH. So a datagram reaches what a login has opened and nothing else: before the login
there is no channel, and the numbers of one connection mean nothing on another.

The stream below proves by itself who its ends are, and SSH proves it again, but nothing in SSH
says that the two are the same: whoever relays somebody's SSH over a QUIC connection of their own
has the datagrams of that connection. A server must therefore use those of a channel only if the
client has asked for it inside SSH, as a client does that has seen the server's key on both layers.

Refused and counted are datagrams of no channel, of one that is closing, and of one that has not
asked for them (`get_extra_info("datagrams")`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from vpn.transport.base import Datagrams

_NUMBER: Final = struct.Struct("!I")


class Owner(Protocol):
    """A channel, as its datagrams see it."""

    def is_closing(self) -> bool:
        """Return whether nothing more is received or sent."""
        ...

    def guarded(self, callback: Any, *arguments: Any) -> None:
        """Call back; abort the channel if that raises."""
        ...


class Multiplexer:
    """The datagrams of all channels of one connection."""

    def __init__(self, below: Datagrams) -> None:
        self._below = below
        self._open: dict[int, ChannelDatagrams] = {}
        self.refused = 0
        """How many came for no channel that takes any."""
        below.on_datagram = self._on_datagram

    def open(self, owner: Owner, number: int, peer_number: int) -> ChannelDatagrams:
        """Return the datagrams of a channel, by its number here and at the peer."""
        found = self._open.get(number)
        if found is None:
            found = self._open[number] = ChannelDatagrams(self._below, owner, peer_number)
        return found

    def close(self, number: int) -> None:
        """Forget a channel, if it had any."""
        self._open.pop(number, None)

    def _on_datagram(self, data: bytes) -> None:
        found = None
        if len(data) >= _NUMBER.size:
            found = self._open.get(_NUMBER.unpack_from(data)[0])
        if found is None or found.owner.is_closing():
            self.refused += 1
        else:
            found.owner.guarded(found.on_datagram, data[_NUMBER.size :])


class ChannelDatagrams:
    """The datagrams of one channel; see `vpn.transport.base.Datagrams`."""

    def __init__(self, below: Datagrams, owner: Owner, peer_number: int) -> None:
        self._below = below
        self._prefix = _NUMBER.pack(peer_number)
        self.owner = owner
        self.on_datagram: Callable[[bytes], object] = lambda _: None

    @property
    def max_bytes(self) -> int:
        """The largest datagram that can be sent now; 0 once the channel is closing."""
        return 0 if self.owner.is_closing() else max(0, self._below.max_bytes - _NUMBER.size)

    def send(self, data: bytes) -> bool:
        """Send a datagram; return False if it is too large or the channel is closing."""
        return not self.owner.is_closing() and self._below.send(self._prefix + data)
