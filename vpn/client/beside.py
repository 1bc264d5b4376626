"""Finds a server by its name while the kill switch of an earlier instance holds.

The machine's own resolver is cut off then, as everything is. The resolvers that it would ask are
asked here instead, on sockets that may leave: in the file that systemd-resolved writes, since the
other names only itself (resolv.conf(5), systemd-resolved.service(8)).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from dns import resolv_conf, upstream
from dns.codes import RRType
from vpn.transport.base import OuterSockets

FILES: Final = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")

_PORT: Final = 53
_PATIENCE_S: Final = 2.0
_MAX_ANSWER: Final = 65535
_TYPES: Final = (RRType.A, RRType.AAAA)


async def addresses_of(name: str, sockets: OuterSockets) -> list[str]:
    """Return the addresses of a name; none if no resolver has any."""
    for resolver in _resolvers():
        found: list[str] = []
        for rtype in _TYPES:
            with suppress(OSError, ValueError):
                found += await _ask(resolver, name, rtype, sockets)
        if found:
            return found
    return []


def _resolvers() -> Iterator[str]:
    for path in FILES:
        with suppress(OSError):
            for server in resolv_conf.parse(Path(path).read_text(errors="replace")).servers:
                if not ip_address(server).is_loopback:
                    yield server


async def _ask(resolver: str, name: str, rtype: int, sockets: OuterSockets) -> list[str]:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    ident = secrets.randbelow(1 << 16)
    with await sockets.outer_socket(family, socket.SOCK_DGRAM) as sock:
        async with asyncio.timeout(_PATIENCE_S):
            await loop.sock_connect(sock, (resolver, _PORT))
            await loop.sock_sendall(sock, upstream.build_query(ident, name, rtype))
            answer = await loop.sock_recv(sock, _MAX_ANSWER)
    records = upstream.read_answer(answer, ident, name, rtype).records
    return [str(ip_address(one.data)) for one in records if one.rtype == rtype]
