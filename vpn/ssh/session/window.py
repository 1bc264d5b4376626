"""The receive window of each channel (RFC 4254, section 5.2), and the budget of all of them.

Theory of operation
-------------------
A window promises memory, and cannot be taken back. No fixed size will do: 8 MiB for each of a
thousand stalled flows is 8 GiB, and 64 KiB is 5 Mbit/s at 100 ms. So a window starts small and
doubles each time half of it was consumed without a pause of the reader: then the network, not the
reader, was the limit. The window of a reader that pauses keeps its size.

All windows of a session share one `WindowBudget`. A growing window may take a quarter of what is
left, a new one a sixty-fourth, but never less than `FLOOR_BYTES`; so the windows of n channels
never exceed `BUDGET_BYTES + n * FLOOR_BYTES`, and a late flow still gets one.
"""

from __future__ import annotations

BUDGET_BYTES = 64 << 20
CEILING_BYTES = 8 << 20  # 640 Mbit/s for one flow at 100 ms
INITIAL_BYTES = 512 << 10  # 40 Mbit/s at 100 ms in the first round trip
FLOOR_BYTES = 32 << 10


class WindowBudget:
    """The memory, in bytes, that the windows of a session share."""

    def __init__(self, total_bytes: int = BUDGET_BYTES) -> None:
        self.left_bytes = total_bytes

    def open(self) -> int:
        """Take the window of a new channel and return its size."""
        size = max(FLOOR_BYTES, min(INITIAL_BYTES, self.left_bytes // 64))
        self.left_bytes -= size
        return size

    def grow(self, size_bytes: int) -> int:
        """Take up to what doubling a window needs, and return the amount."""
        more = min(size_bytes, CEILING_BYTES - size_bytes, self.left_bytes // 4)
        if more <= 0:
            return 0
        self.left_bytes -= more
        return more

    def give_back(self, size_bytes: int) -> None:
        """Return the window of a channel that has ended."""
        self.left_bytes += size_bytes


class ReceiveWindow:
    """The window of one channel; all amounts are bytes of channel data."""

    __slots__ = ("_budget", "_consumed", "_has_waited", "credit", "size")

    def __init__(self, budget: WindowBudget) -> None:
        self._budget = budget
        self._consumed = 0
        self._has_waited = False
        self.size = budget.open()
        self.credit = self.size

    def on_data(self, count: int) -> bool:
        """Account for arriving bytes; return False if the peer exceeded the window."""
        self.credit -= count
        return self.credit >= 0

    def on_wait(self) -> None:
        """Note that the reader, not the network, was the limit."""
        self._has_waited = True

    def on_consumed(self, count: int) -> int:
        """Account for bytes that were read; return the window adjustment to send, often 0."""
        self._consumed += count
        if self._consumed < self.size // 2:
            return 0
        grown = 0 if self._has_waited else self._budget.grow(self.size)
        adjustment = self._consumed + grown
        self.size += grown
        self.credit += adjustment
        self._consumed = 0
        self._has_waited = False
        return adjustment

    def close(self) -> None:
        """Give the window back; called once."""
        self._budget.give_back(self.size)
