"""The relay for queries that are not the tunnel's: to the resolver that they were sent to, outside.

A query goes out as it came, on a socket and so from a source port of its own (RFC 5452 §9.2). Its
answer goes back untouched; the asker checks it as it would have checked it without the relay.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from dns.codes import PORT
from dns.exchange import Exchange
from shim.protocol.gate import Forward
from vpn import stub_resolver
from vpn.transport.base import OuterSockets

TIMEOUT_S: Final = 5.0
MAX_AT_ONCE: Final = 512


class Forwarder:
    """Relays to resolvers outside the tunnel, at most `MAX_AT_ONCE` queries at a time."""

    def __init__(self, sockets: OuterSockets, port: int = PORT) -> None:
        """`sockets` bypass the tunnel."""
        self._sockets = sockets
        self._port = port
        self._running = 0

    async def ask(self, question: Forward) -> bytes:
        """Return the answer, empty if there is none in time."""
        if self._running >= MAX_AT_ONCE:
            return b""
        self._running += 1
        try:
            return await self._ask(question)
        except (OSError, ValueError):
            return b""
        finally:
            self._running -= 1

    async def _ask(self, question: Forward) -> bytes:
        servers = [str(ip_address(question.server))]
        exchange = Exchange(question.message, servers, TIMEOUT_S, over_tcp=question.over_tcp)
        return await stub_resolver.run(exchange, self._sockets.outer_socket, self._port)
