"""The reserved destinations by which a client asks our own server for services.

They are ordinary `direct-tcpip` destinations, so no new channel type is needed and another sshd
simply refuses them; `.internal` is reserved for private use and never resolves.
"""

from __future__ import annotations

DOMAIN = ".overlay-vpn.internal"
RESOLVER = ("resolver" + DOMAIN, 53)
"""Whether names exist at the far end: DNS messages framed as over TCP (RFC 1035, 4.2.2)."""
