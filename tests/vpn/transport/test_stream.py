"""The rules of a stream against a carrier on paper: facts in, orders and callbacks out."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from vpn.transport.base import HIGH_WATER
from vpn.transport.stream import LOW_WATER, Stream


class Loop:
    """Runs what was called soon when it is told to, and remembers what went wrong."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.failures: list[dict[str, Any]] = []

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback, arguments in soon:
            callback(*arguments)


class Carried(Stream):
    """A stream whose orders are written down."""

    def __init__(self, loop: Loop, protocol: asyncio.Protocol) -> None:
        super().__init__(loop, protocol, {"peername": "peer"})  # type: ignore[arg-type]
        self.orders: list[Any] = []
        self.unsent = 0
        self.is_flushed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self.unsent += len(data)
        self.orders.append(bytes(data))

    def _send_fin(self) -> None:
        self.orders.append("fin")

    def _consumed(self, count: int) -> None:
        self.orders.append(count)

    def _flushed(self) -> bool:
        return self.is_flushed

    def _shut(self) -> None:
        self.orders.append("shut")

    def _reset(self) -> None:
        self.orders.append("reset")


class User(asyncio.Protocol):
    """A protocol that writes down its callbacks, and does in each what it is told to."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.does: dict[str, Callable[[], object]] = {}
        self.keeps_open = True

    def _note(self, name: str, what: Any) -> None:
        self.seen.append(what)
        self.does.get(name, lambda: None)()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._note("made", "made")

    def data_received(self, data: bytes) -> None:
        self._note("data", data)

    def eof_received(self) -> bool:
        self._note("eof", "eof")
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost", ("lost", exc))

    def pause_writing(self) -> None:
        self._note("pause", "pause")

    def resume_writing(self) -> None:
        self._note("resume", "resume")


class Scene:
    """A loop, a protocol and an open stream between them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.user = User()
        self.stream = Carried(self.loop, self.user)
        self.stream.on_open()
        self.take()

    def keep(self, *chunks: bytes) -> None:
        """Let bytes arrive while the reader pauses."""
        self.stream.pause_reading()
        for data in chunks:
            self.stream.on_bytes(data)

    def take(self) -> tuple[list[Any], list[Any]]:
        """Return the callbacks and the orders since the last time."""
        seen, self.user.seen = self.user.seen, []
        orders, self.stream.orders = self.stream.orders, []
        return seen, orders

    def turn(self) -> tuple[list[Any], list[Any]]:
        self.loop.turn()
        return self.take()


@pytest.fixture
def scene() -> Scene:
    return Scene()


BUG = ValueError("a bug")
RESET = ConnectionResetError("reset")


def fail() -> None:
    raise BUG


# Reading.


def test_reading_bytes_are_delivered_and_consumed(scene: Scene) -> None:
    scene.stream.on_bytes(b"one")
    assert scene.take() == ([b"one"], [3])


def test_paused_bytes_and_end_wait_for_the_reader(scene: Scene) -> None:
    scene.keep(b"one")
    scene.stream.on_fin()
    scene.stream.on_end(None)
    assert scene.take() == ([], [])
    scene.stream.resume_reading()
    scene.stream.on_bytes(b"two")  # it may not overtake
    assert scene.take() == ([], [])
    assert scene.turn() == ([b"one", b"two", "eof"], [3, 3])
    assert scene.turn() == ([("lost", None)], [])


def test_resumed_twice_delivers_once(scene: Scene) -> None:
    scene.stream.resume_reading()
    assert scene.loop.soon == []


def test_reader_that_pauses_in_a_callback_gets_no_more(scene: Scene) -> None:
    scene.keep(b"one", b"two")
    scene.user.does["data"] = scene.stream.pause_reading
    scene.stream.resume_reading()
    assert scene.turn() == ([b"one"], [3])
    assert not scene.stream.is_reading()


def test_end_that_comes_during_a_callback_does_not_overtake(scene: Scene) -> None:
    scene.keep(b"one", b"two")
    scene.user.does["data"] = scene.stream.on_fin
    scene.stream.resume_reading()
    assert scene.turn() == ([b"one", b"two", "eof"], [3, 3])


def test_end_of_the_peer_is_told_at_once_to_a_reader(scene: Scene) -> None:
    scene.stream.on_fin()
    assert scene.take() == (["eof"], [])
    assert not scene.stream.is_closing()


def test_end_that_nobody_keeps_open_closes(scene: Scene) -> None:
    scene.user.keeps_open = False
    scene.stream.on_fin()
    assert scene.take() == (["eof"], ["fin", "shut"])
    assert scene.turn() == ([("lost", None)], [])


def test_reset_does_not_wait_for_the_reader(scene: Scene) -> None:
    scene.keep(b"unread")
    scene.stream.on_end(RESET)
    assert not scene.stream._inbound
    assert scene.turn() == ([("lost", RESET)], [])
    scene.stream.resume_reading()
    assert scene.turn() == ([], [])


# Writing.


def test_writer_is_paused_above_the_high_mark_and_resumed_at_the_low_one(scene: Scene) -> None:
    scene.stream.write(bytes(HIGH_WATER))
    assert scene.take()[0] == []
    scene.stream.write(b"x")
    scene.stream.write(b"y")
    assert scene.take()[0] == ["pause"]
    scene.stream.unsent = LOW_WATER + 1
    scene.stream.on_progress()
    assert scene.take()[0] == []
    scene.stream.unsent = LOW_WATER
    scene.stream.on_progress()
    scene.stream.on_progress()
    assert scene.take()[0] == ["resume"]


def test_nothing_written_is_no_order(scene: Scene) -> None:
    scene.stream.write(b"")
    assert scene.take() == ([], [])


def test_ended_direction_ends_once_and_takes_no_more(scene: Scene) -> None:
    scene.stream.write_eof()
    scene.stream.write_eof()
    with pytest.raises(RuntimeError):
        scene.stream.write(b"more")
    assert scene.take() == ([], ["fin"])


# Ending.


def test_close_waits_for_what_was_written(scene: Scene) -> None:
    scene.stream.is_flushed = False
    scene.stream.write(b"last")
    scene.stream.close()
    assert scene.take() == ([], [b"last", "fin"])
    assert scene.stream.is_closing()
    assert not scene.stream.is_reading()
    scene.stream.on_progress()
    assert scene.turn() == ([], [])
    scene.stream.is_flushed = True
    scene.stream.on_progress()
    scene.stream.on_progress()
    assert scene.turn() == ([("lost", None)], ["shut"])


def test_closing_stream_consumes_what_nobody_will_read(scene: Scene) -> None:
    scene.stream.is_flushed = False
    scene.keep(b"unread")
    scene.stream.close()
    scene.stream.on_bytes(b"late")
    assert scene.take() == ([], ["fin", 6, 4])
    scene.stream.write(b"late too")
    scene.stream.close()
    assert scene.turn() == ([], [])


def test_closing_stream_may_still_be_reset_or_end(scene: Scene) -> None:
    scene.stream.is_flushed = False
    scene.stream.close()
    scene.take()
    scene.stream.on_end(None)
    scene.stream.on_end(RESET)
    assert scene.turn() == ([("lost", None)], [])


def test_close_after_a_clean_end_that_waits_is_the_end(scene: Scene) -> None:
    scene.keep(b"unread")
    scene.stream.on_end(None)
    scene.stream.is_flushed = False
    scene.stream.close()
    assert scene.turn()[0] == [("lost", None)]


def test_abort_resets_once_and_is_never_called_back_at_once(scene: Scene) -> None:
    scene.stream.abort()
    scene.stream.abort()
    assert scene.take() == ([], ["reset"])
    scene.stream.write(b"late")
    scene.stream.write_eof()
    scene.stream.close()
    assert scene.turn() == ([("lost", None)], [])
    assert scene.stream.is_closing()


# Protocols that raise.


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("made", lambda scene: scene.stream.on_open()),
        ("data", lambda scene: scene.stream.on_bytes(b"x")),
        ("eof", lambda scene: scene.stream.on_fin()),
        ("pause", lambda scene: scene.stream.write(bytes(HIGH_WATER + 1))),
    ],
)
def test_protocol_that_raises_is_aborted_and_the_loop_is_told(
    scene: Scene, name: str, fact: Callable[[Scene], None]
) -> None:
    scene.user.does[name] = fail
    fact(scene)
    assert "reset" in scene.take()[1]
    assert [failure["exception"] for failure in scene.loop.failures] == [BUG]
    assert scene.loop.failures[0]["protocol"] is scene.user
    assert scene.turn() == ([("lost", BUG)], [])


# Its protocol and marks.


def test_another_protocol_takes_over(scene: Scene) -> None:
    other = User()
    scene.stream.set_protocol(other)
    scene.stream.on_bytes(b"x")
    assert (scene.user.seen, other.seen) == ([], [b"x"])
    assert scene.stream.get_protocol() is other
    with pytest.raises(TypeError):
        scene.stream.set_protocol(asyncio.BaseProtocol())


def test_marks_are_fixed(scene: Scene) -> None:
    assert scene.stream.get_write_buffer_limits() == (LOW_WATER, HIGH_WATER)
    assert scene.stream.can_write_eof()
    with pytest.raises(NotImplementedError):
        scene.stream.set_write_buffer_limits(high=0)
    assert scene.stream.get_extra_info("peername") == "peer"
