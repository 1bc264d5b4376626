"""The names of addresses in an association: each has the one it was last sent to under. Pure.

An application that has sent to a name expects the answer from it, on whatever port (TFTP answers
from another one, RFC 1350 §4). Where two names have one address, the port decides if it can.

Bounds: `MAX_PEERS` of addresses and of addresses with ports; the oldest is forgotten, and then
answers under its address.
"""

from __future__ import annotations

from typing import Final

MAX_PEERS: Final = 1024


class Peers:
    """The names of the addresses of one association."""

    def __init__(self) -> None:
        self._names: dict[str | tuple[str, int], str] = {}

    def on_sent(self, host: str, address: str, port: int) -> None:
        """A datagram was sent to `host`, which is `address` itself or a name of it."""
        if host == address:
            if self._names.pop((address, port), None) is not None:
                self._names.pop(address, None)
            return
        for key in (address, (address, port)):
            self._names.pop(key, None)
            self._names[key] = host
        while len(self._names) > 2 * MAX_PEERS:
            del self._names[next(iter(self._names))]

    def host_of(self, address: str, port: int) -> str:
        """Return the host that has sent from an address and port."""
        return self._names.get((address, port)) or self._names.get(address) or address
