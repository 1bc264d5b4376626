"""The dialer of the server: resolves a destination, connects, and reports the failure if it cannot.

The addresses of a name are tried as RFC 8305 says: families take turns, the next attempt starts
250 ms after the one before or when that one fails. Of several errors the one that says most
about the destination is reported, in this order:

1. refused: a machine answered for the address and has nothing on that port;
2. forbidden: a firewall answered;
3. no route to the host: the last router answered;
4. timed out: there is a way, and nothing answered;
5. network unreachable: most often only this machine's lack of IPv6, so it says least.

An attempt that is still running at the deadline counts as timed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from vpn.protocol.failure import Failure, OpenFailed
from vpn.server.failures import from_error
from vpn.transport.dial import race

TIMEOUT_S = 10.0
MAX_LOOKUPS = 64  # at a time: the event loop's own pool of threads has few, and others use it
_DISCARD = 9
_TELLING = (
    Failure.ECONNREFUSED,
    Failure.POLICY,
    Failure.EHOSTUNREACH,
    Failure.ETIMEDOUT,
    Failure.ENETUNREACH,
    Failure.UNAVAILABLE,
)

SocketAddress = tuple[Any, ...]
Found = tuple[socket.AddressFamily, SocketAddress]


class Dialer:
    """Resolves names and connects; `close` when done."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="getaddrinfo")

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected, non-blocking TCP socket. Raises OpenFailed."""
        if not 0 < port < 1 << 16:
            raise OpenFailed(Failure.UNAVAILABLE, "no such port")
        failures: list[OpenFailed] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                found = interleave(await self.resolve(host, port))
                return await race([partial(_attempt, *each, failures) for each in found])
        except TimeoutError:
            failures.append(OpenFailed(Failure.ETIMEDOUT))
        except OSError as error:
            failures.append(from_error(error))
        raise most_telling(failures)

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[Found]:
        """Return the addresses of a name in the order of getaddrinfo(3). Raises gaierror."""
        loop = asyncio.get_running_loop()
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        try:
            infos = await loop.run_in_executor(self._threads, look_up)
        except ValueError as error:  # a label too long for IDNA, a NUL: no such name can exist
            raise socket.gaierror(socket.EAI_NONAME, "not a name") from error
        return [(family, sockaddr) for family, _, _, _, sockaddr in infos]

    async def resolve_routed(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[Found]:
        """Return what `resolve` does, but no IPv6 address alone to which there is no route.

        Raises gaierror. So a machine without IPv6 tells nobody to try it.
        """
        found = await self.resolve(host, port, family)
        if family is socket.AF_INET6 and not any(_has_route(*each) for each in found):
            raise socket.gaierror(socket.EAI_NODATA, "no route to any address")
        return found

    def close(self) -> None:
        """Start no more look-ups; those that run end on their own."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def interleave(found: Iterable[Found]) -> list[Found]:
    """Let the address families take turns, the first one first (RFC 8305, section 4)."""
    families: dict[socket.AddressFamily, list[Found]] = {}
    for each in found:
        families.setdefault(each[0], []).append(each)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [each for each in turns if each is not None]


def most_telling(failures: Iterable[OpenFailed]) -> OpenFailed:
    """Return the failure that says most about the destination."""
    return min(
        failures,
        key=lambda failed: (
            _TELLING.index(failed.failure) if failed.failure in _TELLING else len(_TELLING)
        ),
    )


def _has_route(family: socket.AddressFamily, address: SocketAddress) -> bool:
    """Whether packets to an address have a way out; none is sent (connect(2), datagrams)."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((address[0], _DISCARD, *address[2:]))
    except OSError:
        return False
    return True


async def _attempt(
    family: socket.AddressFamily, address: SocketAddress, failures: list[OpenFailed]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        try:
            # A destination that vanished must not hold a channel for ever.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            failures.append(from_error(error))
            raise
        stack.pop_all()
    return sock
