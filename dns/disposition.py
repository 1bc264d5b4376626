"""The disposition of a query: where its answer comes from.

The resolver acts on it, and `overlay-vpn dns query` shows it. `path_of` decides without asking
anybody. For a name that is `FAR` only the client can say whether it is static or cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from dns.codes import RRType
from dns.names import Labels, SpecialUse, host_name, matches_suffix, special_use


class Path(StrEnum):
    """Where an answer comes from."""

    VIRTUAL = "virtual"
    """Made here: a virtual address, the name of one, or what is the same for all names."""
    STATIC = "static"
    """The user has given the name an address (`dns.static`)."""
    FAR = "far"
    """The resolver of the far end is asked."""
    CACHED = "cached"
    """The resolver of the far end was asked before, and its answer is still cached."""
    FORWARDED = "forwarded"
    """The resolver that the query was sent to is asked, outside the tunnel."""
    SPECIAL = "special"
    """The name has a special use, and a fixed answer (`dns.names.special_use`)."""


ADDRESSES: Final = (RRType.A, RRType.AAAA)
HIDDEN: Final = (RRType.HTTPS, RRType.SVCB, RRType.WKS, RRType.A6, RRType.L32, RRType.L64)
"""Types that would give an application real addresses, past the pool."""

_CLAIMED: Final = (SpecialUse.DISCOVERY, SpecialUse.CANARY)


def path_of(
    name: Labels, rtype: int, suffixes: Sequence[Labels], *, is_pooled: bool, asks: bool
) -> Path:
    """Return the path of a query of class IN for a folded name; never STATIC or CACHED.

    `suffixes` are the domains that the tunnel answers for, empty for all names. `is_pooled`: the
    query is for the name of an address of the pool. `asks`: the far end is asked for names.
    """
    special = special_as(name, suffixes)
    is_claimed = is_pooled or special in _CLAIMED
    if not is_claimed and suffixes and not any(matches_suffix(name, one) for one in suffixes):
        return Path.FORWARDED
    if is_pooled:
        return Path.VIRTUAL
    if special is not None:
        return Path.SPECIAL
    if not asks or rtype in HIDDEN or not is_data(rtype):
        return Path.VIRTUAL
    if rtype in ADDRESSES and host_name(name) is None:
        return Path.VIRTUAL
    return Path.FAR


def special_as(name: Labels, suffixes: Sequence[Labels]) -> SpecialUse | None:
    """Return the special use of a folded name; with `suffixes`, `.local` has none."""
    special = special_use(name)
    return None if special is SpecialUse.MULTICAST and suffixes else special


def is_data(rtype: int) -> bool:
    """Say whether a type is one of data (RFC 6895 §3.1), not OPT, a transfer or ANY."""
    return 0 < rtype < 0xFFFF and rtype != RRType.OPT and not 128 <= rtype <= 255
