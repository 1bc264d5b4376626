"""Which way a name takes to its answer: what the resolver acts on, and what people are told.

`path_of` says what is decided here, without asking anybody. Of a name that takes the way `FAR`
only the client knows more: it may be static, or still known from the last time.
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
    """Made here: a name of the pool, or what is the same for every name."""
    STATIC = "static"
    """The user has given the name an address."""
    FAR = "far"
    """A resolver of the far end is asked."""
    CACHED = "cached"
    """It was asked a moment ago."""
    FORWARDED = "forwarded"
    """The resolver that the query was sent to is asked, beside the tunnel."""
    SPECIAL = "special"
    """The name means the same everywhere, or nothing (`dns.names.special_use`)."""


ADDRESSES: Final = (RRType.A, RRType.AAAA)
HIDDEN: Final = (RRType.HTTPS, RRType.SVCB, RRType.WKS, RRType.A6, RRType.L32, RRType.L64)
"""Types by which an application would learn addresses past the pool."""

_CLAIMED: Final = (SpecialUse.DISCOVERY, SpecialUse.CANARY)


def path_of(
    name: Labels, rtype: int, suffixes: Sequence[Labels], *, is_pooled: bool, asks: bool
) -> Path:
    """Return the way of a folded name of class IN, one of four: never STATIC or CACHED.

    `suffixes` are the domains whose names are ours, none for all names; `is_pooled` says that the
    question is for the name of an address of the pool, `asks` that the far end is asked.
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
    """Return what a folded name means. With `suffixes`, those below `.local` are as they say."""
    special = special_use(name)
    return None if special is SpecialUse.MULTICAST and suffixes else special


def is_data(rtype: int) -> bool:
    """Say whether records of this type can be asked for (RFC 6895 §3.1): no OPT, no transfer."""
    return 0 < rtype < 0xFFFF and rtype != RRType.OPT and not 128 <= rtype <= 255
