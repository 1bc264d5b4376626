"""The states of a session: an event goes in, orders come out, and the table says what changes."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest

from vpn.client.session.state import (
    TRANSITIONS,
    Act,
    AttemptFailed,
    Event,
    Fact,
    Failed,
    Lost,
    NetworkUnwatched,
    Paused,
    Say,
    SessionState,
    State,
    kind_of,
)
from vpn.errors import OverlayError

LOST = Lost("it fell silent", 0.5)
ERROR = OverlayError("the server does not know us")
EVENTS: tuple[Event, ...] = (
    Fact.CONNECTED,
    Fact.ROUTED,
    Fact.CAPTURED,
    LOST,
    Fact.ATTEMPT_BEGAN,
    AttemptFailed("no route", 0.5),
    Fact.NETWORK_CHANGED,
    NetworkUnwatched("not permitted"),
    Paused(10),
    Fact.SIGNALLED,
    Fact.DOWN_REQUESTED,
    Fact.HELPER_ENDED,
    Failed(ERROR),
    Fact.SESSION_CLOSED,
)
WAYS: dict[State, tuple[Event, ...]] = {
    State.CONNECTING: (),
    State.CONNECTED: (Fact.CONNECTED, Fact.CAPTURED),
    State.RECONNECTING: (Fact.CONNECTED, Fact.CAPTURED, LOST),
    State.CLOSING: (Fact.CONNECTED, Fact.CAPTURED, Fact.SIGNALLED),
}
"""By which events a state is come to."""


def state_after(*events: Event, kill_switch: bool = False) -> SessionState:
    state = SessionState(100.0, kill_switch=kill_switch)
    for event in events:
        state.on(event, 100.0)
    return state


@pytest.mark.parametrize(("name", "event"), list(product(WAYS, EVENTS)), ids=str)
def test_table_is_all_that_changes_the_state(name: State, event: Event) -> None:
    state = state_after(*WAYS[name])
    assert state.name is name
    state.on(event, 101.0)
    assert state.name is TRANSITIONS.get((name, kind_of(event)), name)


def test_table_as_a_whole() -> None:
    reasons = (Fact.SIGNALLED, Fact.DOWN_REQUESTED, Fact.HELPER_ENDED, Failed)
    ends = set(product(list(WAYS)[:3], reasons))
    assert {key for key, to in TRANSITIONS.items() if to is State.CLOSING} == ends
    assert {key: to for key, to in TRANSITIONS.items() if to is not State.CLOSING} == {
        (State.CONNECTING, Fact.CAPTURED): State.CONNECTED,
        (State.CONNECTED, Lost): State.RECONNECTING,
        (State.RECONNECTING, Fact.CONNECTED): State.CONNECTED,
    }


def test_new_one_is_connecting_and_nothing_else() -> None:
    state = SessionState(100.0)
    assert (state.name, state.is_captured, state.failure) == (State.CONNECTING, False, None)
    assert (state.attempts, state.due, state.last_error) == (0, inf, "")
    assert (state.retry_in_s(100.0), state.paused_s(100.0), state.uptime_s(100.0)) == (0, 0, 0)


def test_connecting_session_comes_and_then_traffic_is_captured() -> None:
    state = SessionState(100.0)
    assert state.on(Fact.CONNECTED, 101.0) == ()
    assert state.name is State.CONNECTING
    assert state.on(Fact.CAPTURED, 102.0) == (Act.TELL_READY,)
    assert state.is_captured
    assert state.uptime_s(104.9) == 4


def test_connected_lost_and_there_again() -> None:
    state = state_after(*WAYS[State.CONNECTED])
    assert state.on(LOST, 200.0) == (Say("the session ended: it fell silent; reconnecting"),)
    assert state.last_error == "it fell silent"
    assert state.due == 200.5
    assert (state.retry_in_s(199.2), state.retry_in_s(200.0), state.retry_in_s(300.0)) == (2, 1, 0)
    assert state.on(Fact.ATTEMPT_BEGAN, 200.5) == ()
    assert (state.attempts, state.due, state.retry_in_s(200.5)) == (1, inf, 0)
    assert state.on(Fact.CONNECTED, 201.0) == (Say("connected again"),)
    assert (state.name, state.last_error, state.attempts) == (State.CONNECTED, "", 0)


def test_reconnecting_attempt_fails_and_the_next_one_is_due_later() -> None:
    state = state_after(*WAYS[State.RECONNECTING])
    state.on(Fact.ATTEMPT_BEGAN, 200.5)
    assert state.on(AttemptFailed("no route", 0.5), 201.0) == ()
    assert (state.last_error, state.due) == ("no route", 202.0)


def test_reconnecting_attempt_that_was_given_up_is_no_new_reason() -> None:
    state = state_after(*WAYS[State.RECONNECTING], Fact.ATTEMPT_BEGAN, AttemptFailed("", 0.5))
    assert state.last_error == "it fell silent"


def test_reconnecting_change_of_the_network_brings_the_attempt_forward() -> None:
    state = state_after(*WAYS[State.CONNECTED])
    state.on(Lost("gone", 0.999), 200.0)
    assert state.on(Fact.NETWORK_CHANGED, 200.1) == ()
    assert state.due < 200.9


def test_captured_while_closing_is_nothing_to_tell() -> None:
    assert state_after(Fact.CONNECTED, Fact.SIGNALLED).on(Fact.CAPTURED, 102.0) == ()


def test_lost_while_closing_is_no_news() -> None:
    assert state_after(*WAYS[State.CLOSING]).on(LOST, 102.0) == ()


def test_network_that_cannot_be_watched_is_said() -> None:
    orders = SessionState(0.0).on(NetworkUnwatched("not permitted"), 1.0)
    assert orders == (Say("cannot watch the network for changes: not permitted"),)


def test_pause_ends_by_itself_or_when_asked() -> None:
    state = state_after(*WAYS[State.CONNECTED])
    assert state.on(Paused(30), 200.0) == ()
    assert [state.paused_s(now) for now in (200.0, 229.5, 230.0, 300.0)] == [30, 1, 0, 0]
    state.on(Paused(0), 210.0)
    assert state.paused_s(210.0) == 0


# The end.


@pytest.mark.parametrize("name", [State.CONNECTED, State.RECONNECTING])
@pytest.mark.parametrize("wish", [Fact.SIGNALLED, Fact.DOWN_REQUESTED])
def test_open_stopped_by_the_user_lifts_the_kill_switch(name: State, wish: Fact) -> None:
    state = state_after(*WAYS[name], kill_switch=True)
    assert state.on(wish, 200.0) == (Act.TELL_STOPPING, Act.CLOSE_SESSION)
    assert state.failure is None
    assert state.on(Fact.SESSION_CLOSED, 201.0) == (Act.TAKE_DOWN_AND_LIFT,)
    assert state.on(Fact.TAKEN_DOWN, 202.0) == ()
    assert state.name is State.DOWN


@pytest.mark.parametrize(
    ("wish", "act"),
    [(Fact.SIGNALLED, Act.TAKE_DOWN), (Fact.DOWN_REQUESTED, Act.TAKE_DOWN_AND_LIFT)],
)
def test_connecting_stopped_leaves_what_an_earlier_instance_has_closed(
    wish: Fact, act: Act
) -> None:
    state = SessionState(0.0, kill_switch=True)
    assert state.on(wish, 1.0) == (Act.TELL_STOPPING, Act.CLOSE_SESSION)
    assert str(state.failure) == "stopped before the tunnel was up"
    assert state.on(Fact.SESSION_CLOSED, 2.0) == (act,)
    state.on(Fact.TAKEN_DOWN, 3.0)
    assert state.name is State.FAILED


def test_connecting_stopped_behind_its_own_kill_switch_lifts_it() -> None:
    state = state_after(Fact.CONNECTED, Fact.ROUTED, kill_switch=True)
    assert (state.name, state.is_captured) == (State.CONNECTING, True)
    state.on(Fact.SIGNALLED, 1.0)
    assert state.on(Fact.SESSION_CLOSED, 2.0) == (Act.TAKE_DOWN_AND_LIFT,)
    state.on(Fact.TAKEN_DOWN, 3.0)
    assert state.name is State.FAILED


def test_closing_stopped_again_is_taken_down_at_once_and_stays_blocked() -> None:
    state = state_after(*WAYS[State.CLOSING], kill_switch=True)
    assert state.on(Fact.SIGNALLED, 200.0) == (Act.TAKE_DOWN,)
    assert state.on(Fact.SESSION_CLOSED, 201.0) == (Act.TAKE_DOWN,)
    state.on(Fact.TAKEN_DOWN, 202.0)
    assert state.name is State.BLOCKED


def test_closing_after_an_error_stopped_once_lifts_the_kill_switch() -> None:
    state = state_after(*WAYS[State.CONNECTED], Failed(ERROR), kill_switch=True)
    assert state.on(Fact.SIGNALLED, 200.0) == (Act.TELL_STOPPING,)
    assert state.on(Fact.SESSION_CLOSED, 201.0) == (Act.TAKE_DOWN_AND_LIFT,)
    assert state.failure is ERROR


@pytest.mark.parametrize(
    ("event", "words"),
    [(Fact.HELPER_ENDED, "the privileged part has ended"), (Failed(ERROR), "does not know us")],
)
def test_open_error_closes_and_is_the_reason(event: Event, words: str) -> None:
    state = state_after(*WAYS[State.CONNECTED])
    assert state.on(event, 200.0) == (Act.CLOSE_SESSION,)
    assert words in str(state.failure)
    assert state.on(Fact.SESSION_CLOSED, 201.0) == (Act.TAKE_DOWN,)
    state.on(Fact.TAKEN_DOWN, 202.0)
    assert state.name is State.FAILED


@pytest.mark.parametrize(("is_captured", "end"), [(True, State.BLOCKED), (False, State.FAILED)])
def test_error_leaves_the_kill_switch_in_place_once_it_was(is_captured: bool, end: State) -> None:
    way = WAYS[State.CONNECTED] if is_captured else ()
    state = state_after(*way, Failed(ERROR), Fact.SESSION_CLOSED, Fact.TAKEN_DOWN, kill_switch=True)
    assert state.name is end


@pytest.mark.parametrize("event", [Fact.HELPER_ENDED, Failed(OverlayError("another"))])
def test_closing_error_is_not_the_reason(event: Event) -> None:
    state = state_after(*WAYS[State.CLOSING])
    assert state.on(event, 200.0) == ()
    assert state.failure is None
    state = state_after(*WAYS[State.CONNECTED], Failed(ERROR), event)
    assert state.failure is ERROR
