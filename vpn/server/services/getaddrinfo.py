"""getaddrinfo(3) for many names at once, some of which have silent resolvers.

A call takes a thread until the last of its attempts has failed, ten seconds or more, and cannot be
cancelled. So the resolvers of this machine are first asked for the name without a thread
(`system_resolvers.py`). Once they have answered, with whatever, getaddrinfo(3) finds the answer in
their cache, or in /etc/hosts, and takes its thread for a moment. Names without an answer in
`QUICK_S` share `MAX_SLOW` threads, so that enough are left for all others.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from dns.codes import RRType
from dns.names import from_text
from vpn.server.dialer import MAX_LOOKUPS, Found
from vpn.server.services.resolver import Resolve, StubResolver

QUICK_S: Final = 1.0
MAX_SLOW: Final = MAX_LOOKUPS // 2
"""Threads for names without an answer."""


class Lookups:
    """Looks up addresses by another `Resolve`; its `resolve` is one, too."""

    def __init__(self, resolve: Resolve, stub: StubResolver) -> None:
        self._resolve = resolve
        self._stub = stub
        self._slow = asyncio.Semaphore(MAX_SLOW)

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[Found]:
        """Return the addresses of a name. Raises gaierror."""
        if await self._is_quick(host, family):
            return await self._resolve(host, port, family)
        await self._slow.acquire()
        running = asyncio.ensure_future(self._resolve(host, port, family))
        running.add_done_callback(self._on_resolved)
        return await asyncio.shield(running)

    def _on_resolved(self, running: asyncio.Future[list[Found]]) -> None:
        # The thread was in use until now, even if the caller was cancelled.
        self._slow.release()
        if not running.cancelled():
            running.exception()

    async def _is_quick(self, host: str, family: socket.AddressFamily) -> bool:
        rtype = RRType.AAAA if family is socket.AF_INET6 else RRType.A
        try:
            async with asyncio.timeout(QUICK_S):
                return await self._stub.ask(from_text(host), rtype) is not None
        except ValueError:  # not a name of the DNS
            return True
        except TimeoutError:
            return False
