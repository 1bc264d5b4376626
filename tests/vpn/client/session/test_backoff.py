"""The policy: how long to wait, what cuts the waiting short, and what ends the trying."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.client.session.backoff import (
    FIRST_S,
    LASTED_S,
    MAX_S,
    PATIENCE_S,
    SETTLE_S,
    Schedule,
    is_fatal,
)
from vpn.errors import (
    AuthenticationError,
    ConfigurationError,
    NotPermittedError,
    OverlayError,
    TransportError,
    UsageError,
)

LATEST = 1 - 2**-53
FRACTIONS = st.floats(0, 1, exclude_max=True)


def fail(schedule: Schedule, times: int, random: float = LATEST) -> list[float]:
    """Let tries fail at once, each when it is due; returns how long was waited for each."""
    pauses, now = [], schedule.due
    for _ in range(times):
        schedule.on_try(now)
        schedule.on_failed(now, random)
        pauses.append(schedule.due - now)
        now = schedule.due
    return pauses


def lost(now: float = 0.0, random: float = 0.0) -> Schedule:
    schedule = Schedule(now)
    schedule.on_lost(now, random)
    return schedule


def test_first_try_is_within_a_second() -> None:
    assert lost(100.0, 0.0).due == 100.0
    assert 100.9 < lost(100.0, LATEST).due <= 100.0 + FIRST_S


def test_pauses_double_up_to_the_longest() -> None:
    assert fail(lost(), 8) == pytest.approx([2, 4, 8, 16, 30, 30, 30, 30])


def test_trying_for_ever_breaks_no_number() -> None:
    assert fail(lost(), 5000)[-1] == pytest.approx(MAX_S)


@given(st.lists(FRACTIONS, min_size=1, max_size=50))
def test_jitter_is_full(randoms: list[float]) -> None:
    """Each pause is its share of the ceiling, whatever came before."""
    schedule, now = lost(), 0.0
    for number, random in enumerate(randoms, 1):
        schedule.on_try(now)
        schedule.on_failed(now, random)
        assert schedule.due - now == pytest.approx(random * min(MAX_S, FIRST_S * 2**number))
        now = schedule.due


def test_session_that_lasted_is_a_new_beginning() -> None:
    schedule = lost()
    fail(schedule, 5)
    schedule.on_connected(100.0)
    schedule.on_lost(100.0 + LASTED_S, LATEST)
    assert schedule.due <= 100.0 + LASTED_S + FIRST_S


def test_session_that_is_lost_at_once_is_no_new_beginning() -> None:
    schedule = lost()
    fail(schedule, 5)
    schedule.on_connected(100.0)
    assert schedule.attempts == 0
    schedule.on_lost(101.0, LATEST)
    assert schedule.due == pytest.approx(101.0 + MAX_S)


def test_change_while_waiting_makes_it_try_once_it_has_settled() -> None:
    schedule = lost()
    fail(schedule, 6)
    assert schedule.due > 20
    now = schedule.due - 20
    schedule.on_change(now)
    assert schedule.due == now + SETTLE_S
    schedule.on_change(now + 0.1)
    assert schedule.due == now + SETTLE_S


def test_change_never_puts_a_try_off() -> None:
    schedule = lost()
    due = schedule.due
    schedule.on_change(due - 0.01)
    assert schedule.due == due


def test_change_during_a_try_is_tried_again_at_once_if_that_fails() -> None:
    schedule = lost()
    schedule.on_try(10.0)
    schedule.on_change(10.1)
    assert schedule.due == 10.0 + PATIENCE_S
    schedule.on_failed(10.2, LATEST)
    assert schedule.due == 10.0 + FIRST_S


def test_try_that_hangs_is_replaced_after_a_change() -> None:
    schedule = lost()
    schedule.on_try(10.0)
    assert schedule.due == inf
    schedule.on_change(18.0)
    assert schedule.due == 18.0 + SETTLE_S


def test_change_while_there_is_a_session_schedules_nothing() -> None:
    schedule = Schedule(0.0)
    schedule.on_change(1.0)
    assert schedule.due == inf
    schedule.on_lost(2.0, 0.0)
    schedule.on_try(2.0)
    schedule.on_connected(3.0)
    schedule.on_change(4.0)
    assert schedule.due == inf


@given(st.lists(st.tuples(st.sampled_from(["wait", "change"]), st.floats(0, 3), FRACTIONS)))
def test_changes_without_end_are_no_storm_of_tries(
    steps: list[tuple[str, float, float]],
) -> None:
    """A try is due for ever again, and never less than a second after a change brought it on."""
    schedule, now, tried_at = lost(), 0.0, -inf
    is_changed = False
    for kind, pause_s, random in steps:
        now += pause_s
        if kind == "change":
            is_changed = True
            schedule.on_change(now)
        assert schedule.due <= now + MAX_S
        if now >= schedule.due:
            if is_changed:
                assert now - tried_at >= FIRST_S or now - tried_at == pytest.approx(FIRST_S)
            tried_at, is_changed = now, False
            schedule.on_try(now)
            schedule.on_failed(now, max(random, 0.5))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransportError("cannot reach it: connection refused"), False),
        (AuthenticationError("the host key has changed"), True),
        (ConfigurationError("the key file is gone"), True),
        (NotPermittedError("not allowed"), True),
        (UsageError("no such transport"), True),
        (OverlayError("the privileged part has ended"), True),
    ],
)
def test_only_what_passes_by_itself_is_tried_again(error: OverlayError, expected: bool) -> None:
    assert is_fatal(error) is expected
