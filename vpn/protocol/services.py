"""The reserved destinations: names and ports behind which a server of ours has its services.

They are ordinary `direct-tcpip` destinations, so no new channel type is needed and another sshd
simply refuses them; `.internal` is reserved for private use and never resolves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

DOMAIN = ".overlay-vpn.internal"
RESOLVER = ("resolver" + DOMAIN, 53)
"""Names of the far end: DNS messages framed as over TCP (RFC 1035, 4.2.2)."""
SEARCH = "search" + DOMAIN
"""The name whose TXT record, asked of `RESOLVER`, lists the search domains of the far end."""
ECHO = ("echo" + DOMAIN, 7)
"""ICMP echo from the far end: the messages of `vpn.protocol.echo`."""
UDP: Mapping[Literal[4, 6], tuple[str, int]] = {
    4: ("udp4" + DOMAIN, 1),
    6: ("udp6" + DOMAIN, 1),
}
"""An association of UDP in a family: the messages of `vpn.protocol.udp`, in its stream."""
UDP_IN_DATAGRAMS: Mapping[Literal[4, 6], tuple[str, int]] = {
    4: (UDP[4][0], 2),
    6: (UDP[6][0], 2),
}
"""The same, and messages that fit go in datagrams of the channel, both ways. A client asks for it
only if it has seen the server's key on the connection that these datagrams are of."""


def is_reserved(host: str) -> bool:
    """Return whether a name is ours and must never be resolved."""
    return f".{host.lower()}".removesuffix(".").endswith(DOMAIN)
