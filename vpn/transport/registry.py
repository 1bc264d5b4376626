"""The installed transports by name: the entry points of the group `overlay_vpn.transports`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from vpn.errors import UsageError
from vpn.transport.base import Transport

ENTRY_POINTS = "overlay_vpn.transports"


def load(name: str) -> Transport:
    """Return a new instance of the transport registered as `name`. Raises UsageError."""
    found = entry_points(group=ENTRY_POINTS, name=name)
    for entry in found:
        factory: Callable[[], Transport] = entry.load()
        return factory()
    known = ", ".join(sorted(entry_points(group=ENTRY_POINTS).names))
    raise UsageError(f"there is no transport {name!r}; choose one of: {known}")
