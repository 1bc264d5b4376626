"""When to try for a session again, and whether. Pure.

Theory of operation
-------------------
A session that has ended is renewed for ever, unless the reason why a try failed is one that the
next try would meet again (`is_fatal`). Between tries there is a random time, of up to 1 s after
the first, up to 30 s after the sixth ("full jitter": many clients that lost one server at one
moment do not come back at one moment). A session that lasted counts as a new beginning; one that
is lost again at once does not.

A change of the network, or the end of a suspension, is a reason to try now, for what failed a
moment ago may work. Changes come in bursts (a carrier, an address, a route), so the try waits
until the first burst has settled; they may also come without end, so a try is never less than 1 s
behind the one before, and one that is running is left alone for 5 s before a change replaces it.

The driver (`renewing.py`) reports what happened and tries when it is `due`. Times are seconds of
one monotonic clock; random numbers are uniform in [0, 1).
"""

from __future__ import annotations

from math import inf
from typing import Final

from vpn.errors import OverlayError, TransportError

FIRST_S: Final = 1.0
MAX_S: Final = 30.0
LASTED_S: Final = 60.0
SETTLE_S: Final = 0.25
PATIENCE_S: Final = 5.0

_MAX_DOUBLINGS: Final = 5


def is_fatal(error: OverlayError) -> bool:
    """Return whether the next try would fail for the same reason.

    Whatever lies between us and the server passes. A key that one side does not accept, a file
    that is missing, a right that we lack, does not pass by itself.
    """
    return not isinstance(error, TransportError)


class Schedule:
    """The times of the tries. It begins with a session made at `now`."""

    def __init__(self, now: float) -> None:
        self._is_lost = False
        self._is_trying = False
        self._connected_at = now
        self._tried_at = -inf
        self._failures = 0
        self.attempts = 0
        """Tries since the session was lost."""
        self.due = inf
        """When to try; infinity while there is a session, or a try that may go on."""

    def on_lost(self, now: float, random: float) -> None:
        """The session has ended."""
        self._is_lost = True
        if now - self._connected_at >= LASTED_S:
            self._failures = 0
        self._wait(now, random)

    def on_try(self, now: float) -> None:
        """A try has begun."""
        self.attempts += 1
        self._is_trying = True
        self._tried_at = now
        self.due = inf

    def on_failed(self, now: float, random: float) -> None:
        """The try has failed; at once again if the network has changed meanwhile."""
        self._is_trying = False
        if self.due < inf:
            self.due = max(now, self._tried_at + FIRST_S)
        else:
            self._wait(now, random)

    def on_connected(self, now: float) -> None:
        """The try has succeeded."""
        self._is_lost = self._is_trying = False
        self._connected_at = now
        self.attempts = 0
        self.due = inf

    def on_change(self, now: float) -> None:
        """The network has changed, or a suspension is over."""
        if self._is_lost:
            pause_s = PATIENCE_S if self._is_trying else FIRST_S
            self.due = min(self.due, max(now + SETTLE_S, self._tried_at + pause_s))

    def _wait(self, now: float, random: float) -> None:
        self.due = now + random * min(MAX_S, FIRST_S * 2 ** min(self._failures, _MAX_DOUBLINGS))
        self._failures += 1
