"""The messages between the client and the processes of the shim, and the addresses they share.

This is the only part of `shim` that `vpn` may import. A module per link, so that a process loads
only the messages that it uses; `link` has the link itself.
"""

from __future__ import annotations

from typing import Final, Literal

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

LAN: Final[dict[Literal[4, 6], tuple[str, ...]]] = {
    4: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    6: ("fc00::/7", "fe80::/10"),
}
"""The local network: prefixes that are never routed on the internet (RFC 6890)."""

MARK: Final = 0x6F76706E
"""The mark of packets that leave outside the tunnel, from outer sockets (socket(7), SO_MARK)."""

ROUTE_PROTOCOL: Final = 118
"""The `rtm_protocol` that marks rules and routes as ours (rtnetlink(7)); unassigned elsewhere."""

DEVICE: Final = "ovpn0"
"""The capture TUN."""
