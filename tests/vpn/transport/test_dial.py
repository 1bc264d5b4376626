"""The race of addresses, with attempts that are told what to do."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from transport_lab import dialing

from vpn.errors import AuthenticationError, TransportError
from vpn.transport import dial
from vpn.transport.base import Address

Run = Callable[[Any], Any]


class Connection:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Attempt:
    """Succeeds or fails after a delay, and knows whether it was cancelled."""

    def __init__(self, delay_s: float, error: Exception | None = None) -> None:
        self._delay_s = delay_s
        self._error = error
        self.connection = Connection()
        self.has_begun = self.is_cancelled = False

    async def __call__(self) -> Connection:
        self.has_begun = True
        try:
            await asyncio.sleep(self._delay_s)
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        if self._error is not None:
            raise self._error
        return self.connection


@pytest.fixture(autouse=True)
def _short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY_S", 0.05)


def race(*attempts: Attempt) -> Coroutine[Any, Any, Connection]:
    return dial.race(list(attempts))


@pytest.fixture
def long_delay(monkeypatch: pytest.MonkeyPatch, _short_delay: None) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY_S", 30.0)


@pytest.mark.usefixtures("long_delay")
def test_first_success_wins_and_later_ones_never_begin(run: Run) -> None:
    first, second = Attempt(0), Attempt(0)
    assert run(race(first, second)) is first.connection
    assert not second.has_begun


@pytest.mark.usefixtures("long_delay")
def test_failure_starts_the_next_at_once(run: Run) -> None:
    first, second = Attempt(0, failing(errno.ECONNREFUSED)), Attempt(0)
    assert run(asyncio.wait_for(race(first, second), 5)) is second.connection


def test_slow_attempt_is_overtaken_and_cancelled(run: Run) -> None:
    slow, fast = Attempt(5), Attempt(0)
    assert run(race(slow, fast)) is fast.connection
    assert slow.is_cancelled


def test_second_winner_of_one_moment_is_closed(run: Run) -> None:
    async def both() -> tuple[Connection, Attempt, Attempt]:
        first, second = Attempt(0.06), Attempt(0.01)
        return await race(first, second), first, second

    winner, first, second = run(both())
    for attempt in (first, second):
        assert attempt.connection is winner or attempt.is_cancelled or attempt.connection.is_closed
    assert not winner.is_closed


@pytest.mark.usefixtures("long_delay")
def test_refusal_of_the_identity_ends_the_race(run: Run) -> None:
    first, second = Attempt(0, AuthenticationError("wrong key")), Attempt(0)
    with pytest.raises(AuthenticationError):
        run(race(first, second))
    assert not second.has_begun


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([errno.ENETUNREACH, errno.ECONNREFUSED], errno.ECONNREFUSED),
        ([errno.ECONNREFUSED, errno.ENETUNREACH], errno.ECONNREFUSED),
        ([errno.ENETUNREACH, errno.ENETUNREACH], errno.ENETUNREACH),
        ([], errno.EADDRNOTAVAIL),
    ],
)
def test_all_failing_tells_the_error_that_says_most(
    run: Run, numbers: list[int], told: int
) -> None:
    with pytest.raises(OSError) as caught:
        run(race(*[Attempt(0, failing(number)) for number in numbers]))
    assert caught.value.errno == told


def test_cancelled_race_cancels_its_attempts(run: Run) -> None:
    attempts = [Attempt(5), Attempt(5)]
    with pytest.raises(TimeoutError):
        run(asyncio.wait_for(race(*attempts), 0.1))
    assert all(attempt.is_cancelled for attempt in attempts)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            failing(errno.ECONNREFUSED),
            "cannot reach h:22: connection refused; is the server running there?",
        ),
        (
            failing(errno.ENETUNREACH),
            "cannot reach h:22: network is unreachable; check this machine's network",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "cannot reach h:22: the name cannot be resolved (Name or service not known); "
            "check the spelling and the resolver",
        ),
        (TimeoutError("no answer"), "cannot reach h:22: no answer; check the address"),
    ],
)
def test_error_is_one_line_that_says_what_to_do(error: OSError, line: str) -> None:
    assert str(dial.cannot_reach(Address("h", 22), error)) == line


def test_name_that_is_none_is_said(run: Run) -> None:
    async def attempt(family: socket.AddressFamily, name: dial.SocketAddress) -> Connection:
        raise NotImplementedError

    with pytest.raises(TransportError, match="not a host name"):
        run(dial.dial(dialing(Address("a" * 64, 1)), socket.SOCK_STREAM, attempt))
