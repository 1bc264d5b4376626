"""A pacer (RFC 9002, section 7.7) for event loops with a timer of milliseconds.

Theory of operation
-------------------
A token bucket is filled at 1.25 times the congestion window per round trip, and each packet takes
one datagram's bytes from it. Its capacity bounds what is sent at one wake-up. An event loop wakes
once a millisecond at best, so the capacity is two milliseconds' worth, and never less than
the initial window. aioquic's own pacer holds 16 packets whatever the rate, and fewer above one
packet a microsecond, which on a millisecond timer is a limit of 40 to 160 Mbit/s.

At most `BURST_PACKETS` are sent at one instant: building them blocks the event loop (about 30 µs
each), and acknowledgements must be read in between. The next may be sent at once.

Pure: time is an argument, in seconds.
"""

from __future__ import annotations

INITIAL_WINDOW_PACKETS = 10  # RFC 9002, section 7.2
BURST_PACKETS = 64
TIMER_RESOLUTION_S = 0.001
GAIN = 1.25  # RFC 9002, section 7.7: a little above one window per round trip


class Pacer:
    """The bucket of one connection; unlimited until the first round trip is measured."""

    def __init__(self, datagram_bytes: int) -> None:
        self._datagram_bytes = datagram_bytes
        self._rate = 0.0  # bytes per second; 0 is not known yet
        self._capacity_bytes = float(INITIAL_WINDOW_PACKETS * datagram_bytes)
        self._level_bytes = self._capacity_bytes
        self._filled_at = 0.0
        self._burst_packets = 0

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Take the new window (bytes) and round-trip time (seconds)."""
        self._rate = GAIN * congestion_window / max(smoothed_rtt, TIMER_RESOLUTION_S)
        self._capacity_bytes = max(
            INITIAL_WINDOW_PACKETS * self._datagram_bytes, 2 * TIMER_RESOLUTION_S * self._rate
        )

    def next_send_time(self, now: float) -> float | None:
        """Return None if a packet may be sent now, else the time to ask again."""
        if not self._rate:
            return None
        if now > self._filled_at:
            self._fill(now)
        if self._level_bytes < self._datagram_bytes:
            return now + (self._datagram_bytes - self._level_bytes) / self._rate
        return now if self._burst_packets >= BURST_PACKETS else None

    def update_after_send(self, now: float) -> None:
        """Take a packet out of the bucket."""
        self._level_bytes -= self._datagram_bytes
        self._burst_packets += 1

    def _fill(self, now: float) -> None:
        gained = (now - self._filled_at) * self._rate
        self._level_bytes = min(self._level_bytes + gained, self._capacity_bytes)
        self._filled_at = now
        self._burst_packets = 0
