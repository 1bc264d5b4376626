"""The state of a client's session, from the first attempt until everything is taken down. Pure.

Theory of operation
-------------------
    connecting ──CAPTURED──▶ connected ◀──CONNECTED── reconnecting
        │                        │  └───────Lost──────────▶ │
        └─── SIGNALLED, …, HELPER_ENDED, Failed ────────────┴──▶ closing ──TAKEN_DOWN──▶ …

Whatever happens is reported as an event, with the time; the answer is what has to be done, as
orders. `TRANSITIONS` is all that changes the state, but for its end, which is `blocked` if the kill
switch still holds, else `failed` after an error, else `down`. An event that means nothing in a
state does not change it: a session that is lost while closing is no news.

The kill switch is lifted only on the user's word: `down`, or a signal once traffic is captured. A
signal during the first attempt gives up that attempt, and leaves alone what an earlier instance
has closed.

The times of the attempts are those of `backoff.Schedule`. Times are seconds of one monotonic
clock; `jitter` is a random number, uniform in [0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import ceil, inf
from typing import Final

from vpn.client.session.backoff import Schedule
from vpn.errors import OverlayError


class State(StrEnum):
    """The states; the last three are final."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSING = "closing"
    DOWN = "down"
    BLOCKED = "blocked"
    FAILED = "failed"


# Events: what has happened. Those that carry something are classes of their own.


class Fact(Enum):
    """The events that carry nothing, and what each says."""

    CONNECTED = "there is a session: the first one, or one that replaces a lost one"
    ROUTED = "the monitor has put the routes in place; the resolvers are not yet configured"
    CAPTURED = "traffic goes through the tunnel: by routes, or in the namespace of a command"
    ATTEMPT_BEGAN = "an attempt to make a new session is under way"
    NETWORK_CHANGED = "a link, address or route has changed, or the machine was suspended"
    SIGNALLED = "the user wants an end, by a signal"
    DOWN_REQUESTED = "the user wants an end, by `overlay-vpn down`"
    HELPER_ENDED = "the gate or the monitor has ended"
    SESSION_CLOSED = "the session and its flows have ended in order, or have had their time to"
    TAKEN_DOWN = "the monitor has ended, and with it what it had changed"


@dataclass(frozen=True, slots=True)
class Paused:
    """Traffic bypasses the tunnel for so many seconds; 0 ends that."""

    seconds: int


@dataclass(frozen=True, slots=True)
class NetworkUnwatched:
    """Changes of the network cannot be noticed."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A step has failed with an error that does not pass by itself."""

    error: OverlayError


@dataclass(frozen=True, slots=True)
class _NoSession:
    """There is none, for a reason in words for the user; `jitter` puts off the next attempt."""

    why: str
    jitter: float


class Lost(_NoSession):
    """The session has ended."""

    __slots__ = ()


class AttemptFailed(_NoSession):
    """The attempt has failed, with an error that may pass, or was given up (empty)."""

    __slots__ = ()


_Carrier = Paused | Lost | AttemptFailed | NetworkUnwatched | Failed
Event = Fact | _Carrier
Kind = Fact | type[_Carrier]


# Orders: what has to be done.


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the user, or the log, one line."""

    line: str


class Act(Enum):
    """The orders that carry nothing, and what each asks for."""

    TELL_READY = "tell whoever has started this client that the tunnel is usable"
    TELL_STOPPING = "tell the service manager that the end has begun"
    CLOSE_SESSION = "reset the flows and end the session; `Fact.SESSION_CLOSED` follows"
    TAKE_DOWN = "have the monitor undo what it has changed, but for the kill switch"
    TAKE_DOWN_AND_LIFT = "have the monitor undo all that it has changed"


Order = Act | Say

_OPEN: Final = (State.CONNECTING, State.CONNECTED, State.RECONNECTING)
_ENDS: Final[tuple[Kind, ...]] = (
    Fact.SIGNALLED,
    Fact.DOWN_REQUESTED,
    Fact.HELPER_ENDED,
    Failed,
)

TRANSITIONS: Final[Mapping[tuple[State, Kind], State]] = {
    (State.CONNECTING, Fact.CAPTURED): State.CONNECTED,
    (State.CONNECTED, Lost): State.RECONNECTING,
    (State.RECONNECTING, Fact.CONNECTED): State.CONNECTED,
    **{(state, event): State.CLOSING for state in _OPEN for event in _ENDS},
}


def kind_of(event: Event) -> Kind:
    """Return what `TRANSITIONS` knows an event by."""
    return event if isinstance(event, Fact) else type(event)


class SessionState:
    """The state machine of one client."""

    def __init__(self, now: float, *, kill_switch: bool = False) -> None:
        self.name = State.CONNECTING
        self.last_error = ""
        """Why there is no session; empty while there is one."""
        self.failure: OverlayError | None = None
        """Why the client ends, unless the user wants it to."""
        self.is_captured = False
        self._started_at = now
        self._paused_until = now
        self._has_kill_switch = kill_switch
        self._is_stop_requested = False
        self._is_lifted = False
        self._schedule = Schedule(now)

    @property
    def due(self) -> float:
        """When to try next; infinity while there is a session, or an attempt that may go on."""
        return self._schedule.due

    def retry_in_s(self, now: float) -> int:
        """Return the seconds until the next attempt; 0 during one, and while connected."""
        return 0 if self.due == inf else max(0, ceil(self.due - now))

    @property
    def attempts(self) -> int:
        """How often a new session has been tried for since the last one was lost."""
        return self._schedule.attempts

    def paused_s(self, now: float) -> int:
        """Return how many seconds a pause still lasts."""
        return max(0, ceil(self._paused_until - now))

    def uptime_s(self, now: float) -> int:
        """Return the seconds since the client has started."""
        return int(now - self._started_at)

    def on(self, event: Event, now: float) -> tuple[Order, ...]:
        """Take note of an event; returns what has to be done, in this order."""
        before = self.name
        self.name = TRANSITIONS.get((before, kind_of(event)), before)
        match event:
            case Fact.CONNECTED:
                return self._on_connected(before, now)
            case Fact.ROUTED:
                self.is_captured = True
            case Fact.CAPTURED:
                self.is_captured = True
                return (Act.TELL_READY,) if before is State.CONNECTING else ()
            case Lost(why, jitter):
                self.last_error = why
                self._schedule.on_lost(now, jitter)
                return (Say(f"the session ended: {why}; reconnecting"),) if before in _OPEN else ()
            case Fact.ATTEMPT_BEGAN:
                self._schedule.on_try(now)
            case AttemptFailed(why, jitter):
                self.last_error = why or self.last_error
                self._schedule.on_failed(now, jitter)
            case Fact.NETWORK_CHANGED:
                self._schedule.on_change(now)
            case NetworkUnwatched(why):
                return (Say(f"cannot watch the network for changes: {why}"),)
            case Paused(seconds):
                self._paused_until = now + seconds
            case _:
                return self._on_end(event, before)
        return ()

    def _on_connected(self, before: State, now: float) -> tuple[Order, ...]:
        self.last_error = ""
        self._schedule.on_connected(now)
        return (Say("connected again"),) if before is State.RECONNECTING else ()

    def _on_end(self, event: Event, before: State) -> tuple[Order, ...]:
        match event:
            case Fact.SIGNALLED | Fact.DOWN_REQUESTED:
                return self._on_stop(before, is_command=event is Fact.DOWN_REQUESTED)
            case Fact.HELPER_ENDED:
                error = OverlayError("the privileged part has ended; run 'overlay-vpn up' again")
                return self._on_failure(error, before)
            case Failed(error):
                return self._on_failure(error, before)
            case Fact.SESSION_CLOSED:
                return (Act.TAKE_DOWN_AND_LIFT if self._is_lifted else Act.TAKE_DOWN,)
            case Fact.TAKEN_DOWN:
                self.name = self._final
        return ()

    def _on_stop(self, before: State, *, is_command: bool) -> tuple[Order, ...]:
        if self._is_stop_requested:
            # The second time the user does not wait for the session; the link to the monitor is
            # closed at once, without a word that would lift the kill switch.
            self._is_lifted = False
            return (Act.TAKE_DOWN,)
        self._is_stop_requested = True
        self._is_lifted = is_command or self.is_captured
        if before is State.CONNECTING:
            self.failure = OverlayError("stopped before the tunnel was up")
        return (Act.TELL_STOPPING, Act.CLOSE_SESSION) if before in _OPEN else (Act.TELL_STOPPING,)

    def _on_failure(self, error: OverlayError, before: State) -> tuple[Order, ...]:
        if before not in _OPEN:
            return ()
        self.failure = error
        return (Act.CLOSE_SESSION,)

    @property
    def _final(self) -> State:
        if self._has_kill_switch and self.is_captured and not self._is_lifted:
            return State.BLOCKED
        return State.DOWN if self.failure is None else State.FAILED
