"""The limit on connections that have not logged in yet, and which of them is closed. Pure.

sshd drops new connections at random when there are too many (MaxStartups). Here the oldest is
closed: a login takes less than a second, so it gets through unless others come faster than `LIMIT`
in that time, whereas those that connect and wait are closed.
"""

from __future__ import annotations

from typing import Generic, TypeVar

LIMIT = 256

T = TypeVar("T")


class Startups(Generic[T]):
    """The connections that have not logged in yet, oldest first."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._waiting: dict[T, None] = {}

    def enter(self, newcomer: T) -> T | None:
        """Add a new connection; return the one to close for it, None if there is room."""
        evicted = next(iter(self._waiting)) if len(self._waiting) >= self._limit else None
        if evicted is not None:
            del self._waiting[evicted]
        self._waiting[newcomer] = None
        return evicted

    def leave(self, connection: T) -> None:
        """Remove a connection that has logged in or ended; harmless if it is not there."""
        self._waiting.pop(connection, None)

    def waiting(self) -> list[T]:
        """Return the connections that have not logged in, oldest first."""
        return list(self._waiting)
