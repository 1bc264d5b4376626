"""The host that a captured destination address stands for. Pure.

Flows, associations and echo all ask for it, and each keeps the name that it got pinned for as long
as it uses the address.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, Protocol

from shim.protocol import GATEWAY4, GATEWAY6

GATEWAYS: Final = {4: ip_address(GATEWAY4).packed, 16: ip_address(GATEWAY6).packed}
"""The gate's own addresses, by the length of an address of their family."""

Target = tuple[str, str | None]
"""The host to ask the far end for, a name or an address, and the name to pin, if it is one."""


class Targets(Protocol):
    """The part of the pool of virtual addresses that the deciders need."""

    def target(self, address: bytes) -> Target | None:
        """Return what an address stands for, or None for a virtual address without a name."""
        ...

    def is_virtual(self, address: bytes) -> bool:
        """Whether an address is one of the pool's, with a name or without."""
        ...

    def pin(self, name: str) -> None:
        """Keep the address of a name from being given to another."""
        ...

    def unpin(self, name: str, now: float) -> None:
        """Undo one `pin`."""
        ...


def is_gateway(address: bytes) -> bool:
    """Whether an address (4 or 16 bytes) is the gate's own."""
    return address == GATEWAYS[len(address)]


def address_of(host: str, family_of: bytes) -> bytes | None:
    """Return the address that `host` is, if it is one of the same family as `family_of`."""
    try:
        address = ip_address(host).packed
    except ValueError:
        return None
    return address if len(address) == len(family_of) else None
