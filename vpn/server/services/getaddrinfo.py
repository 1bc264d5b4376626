"""getaddrinfo(3) for many at once, where some names have resolvers that are silent.

It takes a thread until the last of its own attempts has failed, ten seconds or more, and cannot be
called off. So a name is first asked of the resolvers of this machine beside it
(`system_resolvers.py`). Once they have said anything, getaddrinfo(3) gets its answer from what they
still know, or from /etc/hosts, and keeps its thread for a moment. Names about which they have said
nothing in `QUICK_S` share the other threads, and wait for one where nobody else does.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from dns.codes import RRType
from dns.names import from_text
from vpn.server.dial import MAX_LOOKUPS, Found
from vpn.server.services.resolver import Others, Resolve

QUICK_S: Final = 1.0
MAX_SLOW: Final = MAX_LOOKUPS // 2
"""Threads that names without an answer may take."""


class Lookups:
    """Looks up addresses; `resolve` is a `Resolve` like the one that it rests on."""

    def __init__(self, resolve: Resolve, others: Others) -> None:
        self._resolve = resolve
        self._others = others
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
        # The thread was taken until now, also where nobody waits for it any more.
        self._slow.release()
        if not running.cancelled():
            running.exception()

    async def _is_quick(self, host: str, family: socket.AddressFamily) -> bool:
        rtype = RRType.AAAA if family is socket.AF_INET6 else RRType.A
        try:
            async with asyncio.timeout(QUICK_S):
                return await self._others.ask(from_text(host), rtype) is not None
        except ValueError:  # no name that anybody is asked for
            return True
        except TimeoutError:
            return False
