"""A suspension is what only the clock that goes on has seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpn.linux.suspension import SUSPENDED_S, Suspension


def test_suspension_is_what_only_the_boottime_clock_has_seen() -> None:
    suspension = Suspension(1000.0, 400.0)
    assert not suspension.on_tick(1002.0, 402.0)
    assert suspension.on_tick(5000.0, 403.0)
    assert not suspension.on_tick(5002.0, 405.0)


@given(st.lists(st.floats(0, 100), min_size=1))
def test_time_that_both_clocks_have_seen_is_no_suspension(ticks: list[float]) -> None:
    suspension = Suspension(1000.0, 400.0)
    now = 0.0
    for tick in ticks:
        now += tick
        assert not suspension.on_tick(1000.0 + now, 400.0 + now)


def test_shortest_suspension_is_told_from_a_slow_reading_of_the_clocks() -> None:
    assert not Suspension(1000.0, 400.0).on_tick(1000.0 + SUSPENDED_S - 0.5, 400.0)
    assert Suspension(1000.0, 400.0).on_tick(1000.0 + SUSPENDED_S, 400.0)
