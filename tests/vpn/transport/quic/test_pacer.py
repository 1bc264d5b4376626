"""The pacer against the clock of a simulation."""

import pytest

from vpn.transport.quic.pacer import BURST_PACKETS, GAIN, INITIAL_WINDOW_PACKETS, Pacer

DATAGRAM = 1200
TICK_S = 0.001


def burst(pacer: Pacer, now: float) -> int:
    """Send all that may leave at one instant; return how many packets that were."""
    sent = 0
    while pacer.next_send_time(now) is None and sent < 10_000:
        pacer.update_after_send(now)
        sent += 1
    return sent


def test_before_the_first_round_trip_nothing_is_held_back() -> None:
    assert Pacer(DATAGRAM).next_send_time(0.0) is None


def test_first_burst_is_the_initial_window_at_a_low_rate() -> None:
    pacer = Pacer(DATAGRAM)
    pacer.update_rate(congestion_window=10 * DATAGRAM, smoothed_rtt=0.1)
    assert burst(pacer, 1.0) == INITIAL_WINDOW_PACKETS
    due = pacer.next_send_time(1.0)
    assert due is not None
    assert due == pytest.approx(1.0 + DATAGRAM / (GAIN * 10 * DATAGRAM / 0.1))


def test_part_of_a_datagram_in_the_bucket_is_counted() -> None:
    pacer = Pacer(DATAGRAM)
    rate = GAIN * 10 * DATAGRAM / 0.1
    pacer.update_rate(congestion_window=10 * DATAGRAM, smoothed_rtt=0.1)
    burst(pacer, 1.0)
    quarter_later = 1.0 + DATAGRAM / 4 / rate
    assert pacer.next_send_time(quarter_later) == pytest.approx(1.0 + DATAGRAM / rate)
    assert pacer.next_send_time(0.5) == pytest.approx(0.5 + 3 * DATAGRAM / 4 / rate)


@pytest.mark.parametrize("mbit_s", [1, 20, 100, 300])
def test_millisecond_timer_carries_the_rate_of_the_window(mbit_s: int) -> None:
    rtt = 0.05
    window = int(mbit_s * 1e6 / 8 * rtt)
    pacer = Pacer(DATAGRAM)
    pacer.update_rate(congestion_window=window, smoothed_rtt=rtt)
    sent = sum(burst(pacer, 1.0 + TICK_S * tick) for tick in range(1000))
    expected = GAIN * mbit_s * 1e6 / 8 / DATAGRAM
    assert expected * 0.98 <= sent <= expected * 1.02 + 2 * INITIAL_WINDOW_PACKETS


def test_one_instant_sends_no_more_than_a_burst_and_goes_on_at_once() -> None:
    pacer = Pacer(DATAGRAM)
    pacer.update_rate(congestion_window=8 << 20, smoothed_rtt=0.001)
    assert burst(pacer, 1.0) == BURST_PACKETS
    assert pacer.next_send_time(1.0) == 1.0
    assert burst(pacer, 1.0001) == BURST_PACKETS
