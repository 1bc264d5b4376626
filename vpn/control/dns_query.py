"""The query of `overlay-vpn dns query`: asked as an application asks, over UDP and then TCP.

It is asked in the network namespace of this process.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Final

from dns import resolv_conf
from dns.exchange import Exchange
from dns.names import Labels, to_text
from dns.reply import Reply, read_reply
from dns.upstream import build_query
from dns.wire import WireError
from vpn import stub_resolver

TIMEOUT_S: Final = 5.0
TRIES: Final = 3
"""Over UDP, `TIMEOUT_S` apart: as long as the gate keeps a query that it has not answered."""
_PAYLOAD: Final = 1232
"""What every path carries in one piece (DNS flag day 2020)."""


def server_of(path: str = "/etc/resolv.conf") -> str:
    """Return the server that the applications of this machine ask first."""
    try:
        with open(path, errors="replace") as file:
            return resolv_conf.parse(file.read()).servers[0]
    except OSError:
        return resolv_conf.parse("").servers[0]


def is_loopback(server: str) -> bool:
    """Say whether a server is on this machine."""
    return ip_address(server).is_loopback


def ask(server: str, labels: Labels, rtype: int) -> tuple[Reply, bool]:
    """Return an answer, and whether it came over TCP.

    Raises OSError, TimeoutError if the server does not answer in time, and WireError for an answer
    that cannot be read or is missing when the connection ends.
    """
    exchange = Exchange(
        build_query(0, to_text(labels), rtype, _PAYLOAD),
        [server],
        TIMEOUT_S,
        sends=TRIES,
        idents=stub_resolver.random_ident,
    )
    try:
        answer = asyncio.run(stub_resolver.run(exchange, stub_resolver.open_socket))
    except stub_resolver.ConnectionEndedError:
        raise WireError("the connection ended without an answer") from None
    return read_reply(answer), exchange.over_tcp
