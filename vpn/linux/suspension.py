"""The end of a suspension, seen by two clocks of which one stops meanwhile. Pure."""

from __future__ import annotations

from typing import Final

SUSPENDED_S: Final = 2.0
"""The shortest sleep that counts: below it lies the time between two readings of the clocks."""


class Suspension:
    """Notices that the machine has slept: only CLOCK_BOOTTIME goes on then (clock_gettime(2))."""

    def __init__(self, boottime: float, monotonic: float) -> None:
        self._asleep_s = boottime - monotonic

    def on_tick(self, boottime: float, monotonic: float) -> bool:
        """Return whether the machine has slept since the last look at the clocks."""
        before_s, self._asleep_s = self._asleep_s, boottime - monotonic
        return self._asleep_s - before_s >= SUSPENDED_S
