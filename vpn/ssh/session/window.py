"""How much a peer may send before we have read it: the receive window of each channel.

Theory of operation
-------------------
A window (RFC 4254, section 5.2) is a promise of memory, and a promise cannot be taken back. One
fixed size is wrong twice: 8 MiB for each of a thousand stalled flows is 8 GiB, and 64 KiB is
5 Mbit/s at 100 ms. So a window starts small and doubles each time half of it was consumed
without the reader ever having made us wait: then the network, not the reader, was the limit.
A reader that pauses keeps the window it has.

All windows of a session share one `WindowBudget`. A growing window may take a quarter of what is
left, a new one a sixty-fourth, but never less than `FLOOR_BYTES`; so the promises of n channels
never exceed `BUDGET_BYTES + n * FLOOR_BYTES`, and late flows still get something.
"""

from __future__ import annotations

BUDGET_BYTES = 64 << 20
CEILING_BYTES = 8 << 20  # 640 Mbit/s for one flow at 100 ms
INITIAL_BYTES = 512 << 10  # 40 Mbit/s at 100 ms in the first round trip
FLOOR_BYTES = 32 << 10


class WindowBudget:
    """The memory which all channels of a session may promise together, in bytes."""

    def __init__(self, total_bytes: int = BUDGET_BYTES) -> None:
        self.left_bytes = total_bytes

    def open(self) -> int:
        """Take the window of a new channel and return its size."""
        size = max(FLOOR_BYTES, min(INITIAL_BYTES, self.left_bytes // 64))
        self.left_bytes -= size
        return size

    def grow(self, size_bytes: int) -> int:
        """Take what doubling a window needs, as far as it is there, and return the amount."""
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
        """Account for arriving bytes; return False if the peer sent more than it may."""
        self.credit -= count
        return self.credit >= 0

    def on_wait(self) -> None:
        """Remember that the reader, not the network, was the limit."""
        self._has_waited = True

    def on_consumed(self, count: int) -> int:
        """Account for bytes the reader took; return the window adjustment to send, often 0."""
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
