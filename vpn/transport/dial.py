"""Connecting to a name: Happy Eyeballs (RFC 8305) over its addresses, and the errors in one line.

The addresses are tried in the order of getaddrinfo(3) (RFC 6724). The next attempt starts when the
one before has failed, or has not finished in time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from vpn.errors import TransportError
from vpn.transport.base import Address, Dialing, SocketAddress, resolve

ATTEMPT_DELAY_S = 0.25  # RFC 8305, section 5: the recommended Connection Attempt Delay


class Closable(Protocol):
    """The result of an attempt; those that lose the race are closed."""

    def close(self) -> object:
        """Release it."""
        ...


T = TypeVar("T", bound=Closable)

# Advice for the errors of connect(2) and udp(7) about which a user can do something.
HINTS = {
    errno.ECONNREFUSED: "is the server running there?",
    errno.ENETUNREACH: "check this machine's network",
    errno.EHOSTUNREACH: "check the address and the routes to it",
    errno.EACCES: "check this machine's firewall",
    errno.EPERM: "check this machine's firewall",
}

# Errors that only show that this machine lacks an address family; any other tells more.
LOCAL_ERRORS = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


async def dial(
    dialing: Dialing,
    kind: socket.SocketKind,
    attempt: Callable[[socket.AddressFamily, SocketAddress], Coroutine[Any, Any, T]],
) -> T:
    """Return the result of the first attempt that succeeds.

    An attempt raises OSError to make way for the next address; any other error ends the race.
    Raises TransportError with one line.
    """
    try:
        async with asyncio.timeout(dialing.timeout_s) as deadline:
            found = await (dialing.resolve or resolve)(dialing.address, kind)
            return await race([partial(attempt, family, name) for family, name in found])
    except OSError as error:  # TimeoutError is one, too
        if deadline.expired():
            raise TransportError(
                f"cannot reach {dialing.address}: no answer within {dialing.timeout_s:g} s; "
                "check the address and the firewalls on the way"
            ) from error
        raise cannot_reach(dialing.address, error) from error


async def race(attempts: list[Callable[[], Coroutine[Any, Any, T]]]) -> T:
    """Return the first success of attempts that start `ATTEMPT_DELAY_S` apart.

    If all fail, raises the OSError that tells most about the server.
    """
    waiting = deque(attempts)
    started: list[asyncio.Task[T]] = []
    running: set[asyncio.Task[T]] = set()
    errors: list[OSError] = []
    winner: asyncio.Task[T] | None = None
    try:
        while waiting or running:
            if waiting:
                started.append(asyncio.create_task(waiting.popleft()()))
                running.add(started[-1])
            done, running = await asyncio.wait(
                running,
                timeout=ATTEMPT_DELAY_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    winner = task
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                errors.append(error)
        raise most_telling(errors)
    finally:
        await _give_up([task for task in started if task is not winner])


async def _give_up(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    outcomes: Awaitable[list[T | BaseException]] = asyncio.gather(*tasks, return_exceptions=True)
    for outcome in await outcomes:
        if not isinstance(outcome, BaseException):
            outcome.close()


def most_telling(errors: list[OSError]) -> OSError:
    """Return the error that tells most about the server."""
    remote = [error for error in errors if error.errno not in LOCAL_ERRORS]
    return (remote or errors or [OSError(errno.EADDRNOTAVAIL, "the name has no address")])[0]


def cannot_reach(address: Address, error: OSError) -> TransportError:
    """Return the error, in one line, for an address to which no attempt could connect."""
    if isinstance(error, socket.gaierror):
        hint = "check the spelling and the resolver"
    else:
        hint = HINTS.get(error.errno or 0, "check the address")
    return TransportError(f"cannot reach {address}: {in_words(error)}; {hint}")


def in_words(error: OSError) -> str:
    """Return the meaning of an OSError, without its number."""
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if error.errno:
        text = os.strerror(error.errno)
        return text[:1].lower() + text[1:]
    return str(error) or type(error).__name__
