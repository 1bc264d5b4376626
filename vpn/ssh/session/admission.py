"""How many clients may be on the doorstep: connected, but not logged in. Pure.

sshd drops newcomers at random when there are too many (MaxStartups). Here the oldest has to go:
a login takes less than a second, so it gets through unless others come faster than `LIMIT` in
that time, whereas those who connect and wait are who is turned out.
"""

from __future__ import annotations

from typing import Generic, TypeVar

LIMIT = 256

T = TypeVar("T")


class Admission(Generic[T]):
    """Those who have not logged in yet, oldest first."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._waiting: dict[T, None] = {}

    def enter(self, newcomer: T) -> T | None:
        """Let somebody onto the doorstep; return who has to go for it, if anybody."""
        evicted = next(iter(self._waiting)) if len(self._waiting) >= self._limit else None
        if evicted is not None:
            del self._waiting[evicted]
        self._waiting[newcomer] = None
        return evicted

    def leave(self, someone: T) -> None:
        """Forget somebody, who has logged in or gone; no matter if already forgotten."""
        self._waiting.pop(someone, None)

    def waiting(self) -> list[T]:
        """Return those on the doorstep, oldest first."""
        return list(self._waiting)
