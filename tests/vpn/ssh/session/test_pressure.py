from collections.abc import Callable
from typing import Any

from vpn.ssh.session.pressure import CHANNELS_PER_TURN, Pressure


class Loop:
    """An event loop that runs what was scheduled when told to."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], Any]] = []

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self.scheduled.append(callback)

    def turn(self) -> None:
        scheduled, self.scheduled = self.scheduled, []
        for callback in scheduled:
            callback()


class Writer:
    def __init__(self, on_relief: Callable[[], Any] = lambda: None) -> None:
        self.relieved = 0
        self._on_relief = on_relief

    def on_relief(self) -> None:
        self.relieved += 1
        self._on_relief()


def pressure() -> tuple[Loop, Pressure]:
    loop = Loop()
    return loop, Pressure(loop)  # type: ignore[arg-type]


def test_nothing_full_is_not_high() -> None:
    _, calm = pressure()
    assert not calm.is_high


def test_writers_go_on_in_order_a_few_per_turn() -> None:
    loop, full = pressure()
    full.on_stream(is_full=True)
    writers = [Writer() for _ in range(CHANNELS_PER_TURN + 1)]
    for writer in writers:
        full.wait(writer)
    loop.turn()
    assert sum(writer.relieved for writer in writers) == 0
    full.on_stream(is_full=False)
    loop.turn()
    assert [writer.relieved for writer in writers] == [1] * CHANNELS_PER_TURN + [0]
    loop.turn()
    assert [writer.relieved for writer in writers] == [1] * (CHANNELS_PER_TURN + 1)
    assert loop.scheduled == []


def test_first_writer_fills_the_stream_again_the_others_wait_on() -> None:
    loop, full = pressure()
    full.on_stream(is_full=True)
    writers = [Writer(lambda: full.on_stream(is_full=True)), Writer()]
    for writer in writers:
        full.wait(writer)
    full.on_stream(is_full=False)
    loop.turn()
    assert [writer.relieved for writer in writers] == [1, 0]
    assert loop.scheduled == []
    full.on_stream(is_full=False)
    loop.turn()
    assert [writer.relieved for writer in writers] == [1, 1]


def test_key_exchange_is_pressure_until_it_ends() -> None:
    loop, busy = pressure()
    busy.on_key_exchange(is_running=True)
    assert busy.is_high
    busy.on_stream(is_full=True)
    busy.on_key_exchange(is_running=False)
    assert busy.is_high
    busy.on_stream(is_full=False)
    assert not busy.is_high
    assert loop.scheduled == []
