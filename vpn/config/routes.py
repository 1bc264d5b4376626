"""The routes of a tunnel as users write them: prefixes, and names with all below them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from shim.protocol.gate import MAX_SUFFIXES
from shim.protocol.monitor import MAX_PREFIXES
from vpn.errors import UsageError

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Routes:
    """What goes through the tunnel: everything, or prefixes and names under suffixes."""

    everything: bool
    prefixes: tuple[IPv4Network | IPv6Network, ...]
    suffixes: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The routes for people."""
        everything = ("everything",) if self.everything else ()
        return (*everything, *map(str, self.prefixes), *self.suffixes)

    def names(self, hosts: Collection[str]) -> tuple[str, ...] | None:
        """Return the suffixes of the names that are asked through the tunnel.

        Empty means all names, None means none. `hosts` are names that the user gave an address.
        """
        if self.everything and not self.suffixes:
            return ()
        return (*self.suffixes, *hosts) or None


def parse_routes(texts: tuple[str, ...]) -> Routes:
    """Return the routes that were asked for; none means everything. Raises UsageError.

    `10.0.0.0/8` is a prefix, `corp.example` and everything below it a suffix.
    """
    prefixes: dict[IPv4Network | IPv6Network, None] = {}  # each once, in their order
    suffixes: dict[str, None] = {}
    for text in texts:
        if "/" in text or ":" in text or text.replace(".", "").isdigit():
            prefixes[_parse_prefix(text)] = None
        else:
            suffixes[_parse_suffix(text)] = None
    for kind, found, limit in (
        ("prefixes", prefixes, MAX_PREFIXES),
        ("names", suffixes, MAX_SUFFIXES),
    ):
        if len(found) > limit:
            raise UsageError(f"too many {kind} with --route: {len(found)}, at most {limit}")
    defaults = {network.version for network in prefixes if network.prefixlen == 0}
    if not texts or defaults == {4, 6}:
        return Routes(True, (), tuple(suffixes))
    return Routes(False, tuple(prefixes), tuple(suffixes))


def _parse_prefix(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(f"cannot read the route {text!r}: {error}") from None


def _parse_suffix(text: str) -> str:
    name = text.removeprefix("*.").removeprefix(".").removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) and len(label) < 64 for label in labels):
        raise UsageError(
            f"cannot read the route {text!r}: write a prefix (10.0.0.0/8) or a name (corp.example)"
        )
    return name
