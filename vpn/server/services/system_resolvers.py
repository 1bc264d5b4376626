"""The resolvers of this machine, asked for records that getaddrinfo(3) does not return.

They are asked one after the other, as often as `/etc/resolv.conf` says, until one has an answer
(`dns.exchange`). The file is read for each question: it changes when this machine moves to another
network.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

from dns.codes import PORT
from dns.exchange import Exchange
from dns.names import Labels, to_text
from dns.resolv_conf import ResolvConf, parse
from dns.upstream import build_query
from vpn import stub_resolver

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_AT_ONCE: Final = 256
TIMEOUT_S: Final = 9.0
"""For all resolvers together: less than the timeout of the client, 10 s."""

_MAX_FILE: Final = 65536


class SystemResolvers:
    """A stub resolver, at most `MAX_AT_ONCE` questions at a time."""

    def __init__(self, resolv_conf: Path = RESOLV_CONF, port: int = PORT) -> None:
        self._path = resolv_conf
        self._port = port
        self._running = asyncio.Semaphore(MAX_AT_ONCE)

    def settings(self) -> ResolvConf:
        """Return what the file says now. Without a file, this machine is the resolver."""
        try:
            with self._path.open("rb") as file:
                return parse(file.read(_MAX_FILE).decode("utf-8", "replace"))
        except OSError:
            return parse("")

    async def ask(self, labels: Labels, rtype: int) -> bytes | None:
        """Return an answer with the identifier 0, of whatever response code; None without any."""
        settings = self.settings()
        exchange = Exchange(
            build_query(0, to_text(labels), rtype),
            settings.servers * settings.attempts,
            settings.timeout_s,
            idents=stub_resolver.random_ident,
        )
        with suppress(OSError):
            async with asyncio.timeout(TIMEOUT_S), self._running:
                return await stub_resolver.run(exchange, stub_resolver.open_socket, self._port)
        return exchange.answer
