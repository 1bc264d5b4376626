"""A connection over UDP against a machine, a clock and a loop on paper."""

from collections.abc import Callable
from typing import Any

import pytest
from quic_lab import Notes

from vpn.transport.base import SocketAddress
from vpn.transport.quic import engine, udp_connection
from vpn.transport.quic.config import Liveness
from vpn.transport.quic.engine import ABORTED, NO_ERROR, ConnectionClosedError, Origin, Termination
from vpn.transport.quic.pacer import TIMER_RESOLUTION_S
from vpn.transport.quic.state_machine import Events
from vpn.transport.quic.udp_connection import UdpConnection

LIVENESS = Liveness(ping_interval_s=5.0, dead_after_s=15.0)
LOCAL, PEER = ("192.0.2.1", 1), ("192.0.2.2", 2, b"local")
PACKET = (b"packet", PEER)


class Handle:
    """A callback that waits for its time."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """A clock, and callbacks that wait for it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.handles: list[Handle] = []
        self.failures: list[dict[str, Any]] = []

    def call_soon(self, callback: Callable[[], object]) -> Handle:
        return self.call_later(0, callback)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        self.handles.append(Handle(self.now + delay_s, callback))
        return self.handles[-1]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def due(self) -> list[float]:
        return sorted(each.when - self.now for each in self.handles if not each.is_cancelled)

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass; what falls due is called in order."""
        until = self.now + seconds
        while due := [each for each in self.handles if each.when <= until]:
            first = min(due, key=lambda each: each.when)
            self.handles.remove(first)
            self.now = max(self.now, first.when)
            if not first.is_cancelled:
                first.callback()
        self.now = until


class Machine:
    """Does what it is told, and writes down its orders."""

    dropped_datagrams = 3
    lost_packets = 4
    peer_key = b"key"
    peer_address: SocketAddress = PEER
    rtt_s = 0.25
    unsent_bytes = 5
    is_sending_finished = True
    max_datagram_bytes = 6

    def __init__(self) -> None:
        self.orders: list[Any] = []
        self.events: list[Callable[[Events], object]] = []
        self.packets: list[Any] = []
        self.termination: Termination | None = None
        self.timer: float | None = None
        self.has_stream = False
        self.is_credit_due = False
        self.is_broken = False

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        if self.is_broken:
            raise AssertionError("a bug")
        self.orders.append((data, addr, now))

    def report(self, events: Events) -> None:
        while self.events:
            self.events.pop(0)(events)

    def datagrams_to_send(self, now: float) -> list[Any]:
        packets, self.packets = self.packets, []
        return packets

    def get_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.timer = None
        self.orders.append(("timer", now))

    def open_stream(self) -> None:
        self.orders.append("open")

    def find_stream(self) -> bool:
        return self.has_stream

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        self.orders.append((bytes(data), is_end))

    def consume(self, count: int) -> bool:
        self.orders.append(("consume", count))
        return self.is_credit_due

    def queue_datagram(self, data: bytes) -> None:
        self.orders.append(("datagram", data))

    def ping(self) -> None:
        self.orders.append("ping")

    def request_key_update(self) -> None:
        self.orders.append("key update")

    def terminate(self, code: int, reason: str) -> None:
        self.orders.append(("terminate", code, reason))
        self.termination = Termination(Origin.APPLICATION, code, reason)
        self.packets = [(b"close", PEER)]


class Owner:
    """Writes down what it is told, and attaches `receiver` to a stream of the peer."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.receiver: Receiver | None = None

    def on_handshake(self, connection: UdpConnection) -> None:
        self.seen.append("handshake")

    def on_stream(self, connection: UdpConnection) -> None:
        self.seen.append("stream")
        if self.receiver is not None:
            connection.attach(self.receiver)

    def on_end(self, connection: UdpConnection, termination: Termination) -> None:
        self.seen.append(termination)

    def on_gone(self, connection: UdpConnection) -> None:
        self.seen.append("gone")

    def on_connection_id(
        self, connection: UdpConnection, connection_id: bytes, *, is_valid: bool
    ) -> None:
        self.seen.append((connection_id, is_valid))


class Receiver(Notes):
    """What a connection reports."""

    def on_bytes(self, data: bytes) -> None:
        self.seen.append(data)

    def on_progress(self) -> None:
        self.seen.append("progress")

    def on_closed(self, termination: Termination) -> None:
        self.seen.append(termination)


class Scene:
    """A connection with everything it touches on paper."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop, self.machine = Loop(), Machine()
        self.owner, self.receiver = Owner(), Receiver()
        self.sent: list[list[Any]] = []
        monkeypatch.setattr(udp_connection.asyncio, "get_running_loop", lambda: self.loop)
        monkeypatch.setattr(udp_connection.time, "monotonic", lambda: self.loop.now)
        self.connection = UdpConnection(self.machine, self.owner, LOCAL, self.sent.append, LIVENESS)

    def happens(self, *events: Callable[[Events], object]) -> None:
        """Let the machine report events, as after a packet."""
        self.machine.events.extend(events)
        self.connection.advance()

    def set_timer(self, delay_s: float) -> None:
        """Move the machine's timer, as by a packet."""
        self.machine.timer = self.loop.now + delay_s
        self.connection.transmit()

    def attach(self) -> None:
        self.happens(lambda events: events.on_handshake())
        self.connection.attach(self.receiver)
        self.take()

    def take(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the machine's orders, and what receiver and owner were told, since last time."""
        taken = self.machine.orders, self.receiver.seen, self.owner.seen
        self.machine.orders, self.receiver.seen, self.owner.seen = [], [], []
        return taken


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


@pytest.fixture
def attached(scene: Scene) -> Scene:
    scene.attach()
    return scene


GONE = Termination(Origin.TRANSPORT, 7, "gone")
ABORT = Termination(Origin.APPLICATION, ABORTED)
SILENT = Termination(Origin.SILENCE, reason="no answer from the peer for 15 s")


# The seam.


def test_facts_of_the_machine_are_those_of_the_connection(scene: Scene) -> None:
    connection = scene.connection
    assert connection.peer_key == b"key"
    assert connection.path == engine.Path(("192.0.2.1", 1), ("192.0.2.2", 2), 0.25, 4)
    assert (connection.unsent_bytes, connection.is_sending_finished) == (5, True)
    assert (connection.max_datagram_bytes, connection.dropped_datagrams) == (6, 3)


def test_attached_stream_is_opened_and_sent_at_once(scene: Scene) -> None:
    scene.machine.packets = [PACKET]
    scene.connection.attach(scene.receiver)
    assert scene.take() == (["open"], ["progress"], [])
    assert scene.sent == [[PACKET]]


def test_ended_connection_cannot_be_attached(scene: Scene) -> None:
    scene.connection.close(NO_ERROR)
    with pytest.raises(ConnectionClosedError):
        scene.connection.attach(scene.receiver)


def test_many_writes_are_sent_together_in_the_next_turn(attached: Scene) -> None:
    attached.connection.write(b"one")
    attached.connection.write(b"two", is_end=True)
    attached.connection.send_datagram(b"three")
    attached.machine.packets = [PACKET]
    assert attached.sent == []
    attached.loop.run()
    assert attached.sent == [[PACKET]]
    orders = [(b"one", False), (b"two", True), ("datagram", b"three")]
    assert attached.take() == (orders, ["progress"], [])
    attached.connection.write(b"four")
    attached.machine.packets = [PACKET]
    attached.loop.run()
    assert len(attached.sent) == 2


def test_credit_is_sent_when_it_is_worth_it(attached: Scene) -> None:
    attached.machine.packets = [PACKET]
    attached.connection.consume(10)
    attached.loop.run()
    assert attached.sent == []
    attached.machine.is_credit_due = True
    attached.connection.consume(10)
    attached.loop.run()
    assert attached.sent == [[PACKET]]


def test_events_reach_the_receiver_and_the_owner(attached: Scene) -> None:
    attached.happens(
        lambda events: events.on_data(b"data"),
        lambda events: events.on_data(b""),
        lambda events: events.on_datagram(b"datagram"),
        lambda events: events.on_connection_id(b"id", is_valid=True),
        lambda events: events.on_connection_id(b"id", is_valid=False),
        lambda events: events.on_fin(),
    )
    told = [b"data", ("datagram", b"datagram"), "fin", "progress"]
    assert attached.take() == ([], told, [(b"id", True), (b"id", False)])


def test_answer_written_during_a_report_is_sent_right_after_it(attached: Scene) -> None:
    def answer(data: bytes) -> None:
        attached.connection.write(b"answer")
        attached.machine.packets = [PACKET]

    attached.receiver.on_bytes = answer  # type: ignore[method-assign]
    attached.happens(lambda events: events.on_data(b"question"))
    assert attached.sent == [[PACKET]]
    turns = len(attached.loop.due())
    attached.connection.write(b"more")
    assert len(attached.loop.due()) == turns + 1


# The peer's stream.


def test_peer_opens_the_stream_with_data(scene: Scene) -> None:
    scene.owner.receiver = scene.receiver
    scene.machine.has_stream = True
    scene.happens(
        lambda events: events.on_handshake(),
        lambda events: events.on_data(b"first"),
    )
    assert scene.take() == (["open"], [b"first", "progress"], ["handshake", "stream"])


def test_peer_opens_the_stream_without_data(scene: Scene) -> None:
    scene.machine.has_stream = True
    scene.happens()
    assert scene.take()[2] == []  # not before the handshake
    scene.owner.receiver = scene.receiver
    scene.happens(lambda events: events.on_handshake())
    scene.happens()
    assert scene.take()[2] == ["handshake", "stream"]


def test_what_comes_before_the_stream_is_lost(scene: Scene) -> None:
    scene.happens(
        lambda events: events.on_data(b"data"),
        lambda events: events.on_datagram(b"datagram"),
        lambda events: events.on_fin(),
    )
    assert scene.take() == ([], [], [])


# Ends.


def test_close_sends_its_code_and_tells_the_owner_alone(attached: Scene) -> None:
    attached.connection.close(ABORTED, "because")
    attached.connection.close(NO_ERROR)
    termination = Termination(Origin.APPLICATION, ABORTED, "because")
    assert attached.take() == ([("terminate", ABORTED, "because")], [], [termination])
    assert attached.sent == [[(b"close", PEER)]]
    attached.loop.run(100)
    assert attached.take() == ([], [], [])


def test_abort_tells_the_receiver_too(attached: Scene) -> None:
    attached.connection.abort()
    assert attached.take()[1:] == ([ABORT], [ABORT])


def test_reset_of_the_stream_is_the_end(attached: Scene) -> None:
    attached.happens(lambda events: events.on_reset())
    assert attached.take() == ([("terminate", ABORTED, "")], [ABORT], [ABORT])


def test_end_is_told_with_the_packet_that_brought_it(attached: Scene) -> None:
    attached.machine.termination = GONE
    attached.machine.packets = [PACKET]
    attached.happens()
    assert attached.take()[1:] == ([GONE], [GONE])
    assert attached.sent == [[PACKET]]
    attached.happens(lambda events: events.on_closing_over())
    assert attached.take()[2] == ["gone"]


def test_end_that_comes_with_the_closing_period_keeps_its_reason(attached: Scene) -> None:
    attached.machine.termination = GONE
    attached.happens(lambda events: events.on_closing_over())
    assert attached.take()[1:] == ([GONE], [GONE, "gone"])


def test_stream_that_comes_after_the_end_is_not_accepted(scene: Scene) -> None:
    scene.machine.termination = GONE
    scene.happens()
    scene.machine.has_stream = True
    scene.happens(lambda events: events.on_handshake(), lambda events: events.on_data(b"late"))
    assert scene.take()[2] == [GONE, "handshake"]


def test_packets_after_the_end_are_answered_ever_more_rarely(attached: Scene) -> None:
    attached.connection.close(ABORTED)
    attached.sent.clear()
    answered = []
    for number in range(1, 1025):
        attached.connection.receive(b"still here", PEER)
        if attached.sent:
            answered.append(number)
            assert attached.sent.pop() == [(b"close", PEER)]
    assert answered == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_failing_machine_is_closed_and_the_loop_is_told(attached: Scene) -> None:
    attached.machine.is_broken = True
    attached.connection.receive(b"killer", PEER)
    attached.connection.advance()
    (end,) = attached.take()[1]
    assert (end.origin, end.code) == (Origin.TRANSPORT, 1)
    assert isinstance(attached.loop.failures[0]["exception"], AssertionError)


# Time.


def test_packet_is_taken_with_its_time(scene: Scene) -> None:
    scene.loop.run(1.5)
    scene.connection.receive(b"data", PEER)
    assert scene.machine.orders == [(b"data", PEER, 101.5)]


def test_timer_that_moves_later_is_left_until_it_fires(scene: Scene) -> None:
    scene.set_timer(1)
    scene.set_timer(2)
    assert scene.loop.due() == [1, 5]
    scene.loop.run(1.5)
    assert scene.take()[0] == []
    scene.loop.run(0.5)
    assert scene.take()[0] == [("timer", 102.0)]


def test_timer_that_moves_earlier_is_set_again(scene: Scene) -> None:
    scene.set_timer(2)
    scene.set_timer(1)
    assert scene.loop.due() == [1, 5]


def test_timer_is_no_finer_than_the_loop_can_wait(scene: Scene) -> None:
    scene.set_timer(TIMER_RESOLUTION_S / 10)
    assert scene.loop.due() == pytest.approx([TIMER_RESOLUTION_S, 5])
    scene.set_timer(0)
    assert scene.loop.due() == [0, 5]


def test_timer_that_fires_a_little_early_is_on_time(scene: Scene) -> None:
    scene.set_timer(1)
    scene.set_timer(1 + TIMER_RESOLUTION_S / 2)
    scene.loop.run(1)
    assert scene.take()[0] == [("timer", 101 + TIMER_RESOLUTION_S / 2)]


def test_timer_that_is_gone_does_nothing(scene: Scene) -> None:
    scene.set_timer(1)
    scene.machine.timer = None
    scene.connection.transmit()
    scene.loop.run(2)
    assert scene.take()[0] == []


def test_stopped_connection_waits_for_nothing(attached: Scene) -> None:
    attached.set_timer(1)
    attached.connection.stop()
    attached.connection.transmit()
    assert attached.loop.due() == []


# Liveness.


def test_silent_peer_is_asked_and_then_dead(attached: Scene) -> None:
    attached.loop.run(14)
    assert attached.take()[0] == ["ping"] * 2
    attached.loop.run(1)
    orders, told, owner = attached.take()
    assert orders == [("terminate", ABORTED, SILENT.reason)]
    assert (told[-1], owner) == (SILENT, [SILENT])
    attached.loop.run(100)
    assert attached.take() == ([], [], [])


@pytest.mark.parametrize(
    "sign", [lambda events: events.on_ping_acknowledged(), lambda events: events.on_data(b"x")]
)
def test_sign_of_life_counts_from_when_it_came(
    attached: Scene, sign: Callable[[Events], object]
) -> None:
    attached.loop.run(12)
    attached.happens(sign)
    attached.loop.run(14)
    assert SILENT not in attached.take()[1]
    attached.loop.run(1)
    assert SILENT in attached.take()[1]


def test_datagram_is_no_sign_of_life(attached: Scene) -> None:
    attached.loop.run(12)
    attached.happens(lambda events: events.on_datagram(b"x"))
    attached.loop.run(3)
    assert SILENT in attached.take()[1]


def test_connection_without_a_stream_is_given_up_whatever_it_says(scene: Scene) -> None:
    for _ in range(14):
        scene.happens(lambda events: events.on_handshake())
        scene.loop.run(1)
    assert SILENT not in scene.take()[2]
    scene.loop.run(1)
    assert scene.take()[2][-1] == SILENT


def test_peer_is_not_pinged_before_the_handshake(scene: Scene) -> None:
    scene.loop.run(14)
    assert scene.take()[0] == []


def test_keys_are_updated_after_so_many_packets(
    attached: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_connection, "KEY_UPDATE_PACKETS", 5)
    for count, orders in ((4, []), (1, ["key update"]), (4, []), (1, ["key update"])):
        attached.machine.packets = [PACKET] * count
        attached.connection.transmit()
        assert attached.take()[0] == orders
