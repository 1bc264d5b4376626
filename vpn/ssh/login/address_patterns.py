"""The address patterns of `from=` in authorized_keys (sshd(8); ssh_config(5), PATTERNS). Pure.

Addresses, CIDR networks and wildcards; a pattern with `!` that matches refuses, whatever else
matches. Host names never match: there are no reverse look-ups.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def parse(text: str) -> tuple[str, ...]:
    """Return the patterns of a comma-separated list. Raises ValueError."""
    patterns = tuple(text.split(","))
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if not bare:
            raise ValueError("from has an empty pattern")
        if "/" in bare:
            ip_network(bare)  # with host bits set it is a mistake: ValueError, as in sshd
    return patterns


def matches(patterns: Iterable[str], source: str) -> bool:
    """Return whether a pattern matches the address, and none with `!` does."""
    try:
        address = _plain(ip_address(source))
    except ValueError:
        return False
    is_allowed = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if _matches_one(bare, address):
            if bare != pattern:
                return False
            is_allowed = True
    return is_allowed


def _matches_one(pattern: str, address: IPv4Address | IPv6Address) -> bool:
    if "/" in pattern:
        return address in ip_network(pattern)
    try:
        return _plain(ip_address(pattern)) == address
    except ValueError:
        return fnmatch.fnmatchcase(str(address), pattern.lower().replace("[", "[[]"))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
