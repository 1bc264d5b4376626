"""The addresses of the lab: documentation ranges only (RFC 5737, RFC 3849).

app eth0 ──── to-app router to-server ──── to-router server to-target ──── eth0 target
    .2        .1            .1             .2               .1             .2
    192.0.2.0/24            198.51.100.0/24                 203.0.113.0/25
    2001:db8:1::/64         2001:db8:2::/64                 2001:db8:3::/64
"""

from __future__ import annotations

from typing import NamedTuple


class Dual(NamedTuple):
    """One place, by its IPv4 and its IPv6 address; iterating gives both."""

    v4: str
    v6: str


APP = Dual("192.0.2.2", "2001:db8:1::2")
ROUTER = Dual("192.0.2.1", "2001:db8:1::1")
ROUTER_OUTSIDE = Dual("198.51.100.1", "2001:db8:2::1")
SERVER = Dual("198.51.100.2", "2001:db8:2::2")
SERVER_INSIDE = Dual("203.0.113.1", "2001:db8:3::1")

TARGET = Dual("203.0.113.2", "2001:db8:3::2")
FILTERED = Dual("203.0.113.3", "2001:db8:3::3")
"""The target has it and drops whatever comes: no answer."""
PROHIBITED = Dual("203.0.113.4", "2001:db8:3::4")
"""The target answers "administratively prohibited": EHOSTUNREACH in v4, EACCES in v6."""
ABSENT = Dual("203.0.113.5", "2001:db8:3::5")
"""On the target's link, but nobody has it: the server's ARP or NDP fails, EHOSTUNREACH."""
NO_ROUTE = Dual("203.0.113.200", "2001:db8:4::2")
"""The server has no route to it: ENETUNREACH."""

CLOSED_PORT = 9
"""Nobody listens here (discard); ask at TARGET."""
