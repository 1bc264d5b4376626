"""What client, monitor, keeper and gate have in common: their messages, and a few addresses.

This is the only part of `shim` that `vpn` may import. A module per link, so that a process loads
the messages that it speaks and no others; `link` has the link itself.
"""

from __future__ import annotations

import os
from typing import Final

VERSION: Final = 1

POOL4: Final = "198.18.0.0/15"
"""Virtual IPv4 addresses of names: the benchmarking range of RFC 2544, never routed."""

POOL6: Final = "fd6f:7670:6e00::/64"
"""Virtual IPv6 addresses of names: a unique local prefix (RFC 4193) that leaves no machine."""

GATEWAY4: Final = "198.18.0.1"
GATEWAY6: Final = "fd6f:7670:6e00::1"
"""The gate's own addresses: the source of its ICMP errors, and a resolver."""

DEVICE4: Final = "198.18.0.2"
DEVICE6: Final = "fd6f:7670:6e00::2"
"""The addresses of the capture TUN, the source of captured flows."""


RUN_DIRECTORY: Final = "/run/overlay-vpn"
DEVICE: Final = "ovpn0"


def state_directory() -> str:
    """Return where the state of this network namespace lives: one instance per namespace."""
    return f"{RUN_DIRECTORY}/net-{os.stat('/proc/self/ns/net').st_ino}"


CONTROL: Final = "client.sock"
"""In the state directory: where the client answers `status` and `down`."""

JOURNAL: Final = "journal"
"""In the state directory: what has been changed, a line of JSON each."""

LOCK: Final = "lock"
"""In the state directory: locked (flock(2)) while an instance runs; holds its process id."""
