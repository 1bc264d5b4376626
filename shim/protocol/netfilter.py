"""A packet filter of nftables as data: chains of lines, each a few tests and a verdict.

The launcher decides on it, the monitor installs it (`shim.netlink.kernel`).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

PAUSED: Final = "paused"
"""The set of the families (NFPROTO_IPV4, NFPROTO_IPV6) for which the switch is off for a while."""

INET: Final = 1
ARP: Final = 3
PROTOCOLS: Final[dict[Literal[4, 6], bytes]] = {4: b"\x02", 6: b"\x0a"}


class Test(msgspec.Struct, frozen=True):
    """A field of a packet has a value. `at` is a meta key, or an offset in bytes in the header."""

    of: Literal["meta", "network", "transport", "paused"]
    at: int
    value: bytes = b""
    mask: bytes = b""


Line = tuple[tuple[Test, ...], bool]
"""All tests hold: the packet is accepted, or (False) dropped."""


class Chain(msgspec.Struct, frozen=True):
    """A chain of a table of `family`. A packet that no line decides is accepted, or not."""

    family: int
    hook: Literal["prerouting", "input", "forward", "output"]
    accept: bool
    lines: tuple[Line, ...]


Chains = tuple[Chain, ...]
