"""aioquic's connection without I/O: credit, datagrams, and a guard on aioquic's private parts."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, StreamDataReceived
from quic_lab import Notes, noise

from vpn.transport.certificate import ed25519_key_of
from vpn.transport.quic.aioquic_engine import (
    STREAM_ID,
    AioquicConnection,
    client_configuration,
    server_configuration,
    termination_of,
)
from vpn.transport.quic.config import (
    MAX_DATAGRAM_BYTES,
    MAX_FRAME_BYTES,
    MAX_WAITING_DATAGRAMS,
    Liveness,
)
from vpn.transport.quic.engine import Origin, Termination
from vpn.transport.quic.pacer import Pacer

CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
WINDOW = 1 << 18
SEED = bytes(range(32))


class Wire:
    """Two engines and a clock; datagrams arrive at once, or are dropped by number."""

    def __init__(self) -> None:
        self.now = 0.0
        self.client = AioquicConnection(configuration=client_configuration(Liveness()))
        self.server = AioquicConnection(
            configuration=server_configuration(SEED, Liveness()),
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.received = {self.client: 0, self.server: 0}
        self.datagrams: list[bytes] = []
        self.drops: Iterator[bool] = iter(())
        self.client.connect(SERVER, now=self.now)

    def open_stream(self) -> None:
        self.client.open_stream()
        self.settle()
        assert self.server.find_stream()

    def settle(self, seconds: float = 1.0) -> None:
        """Exchange datagrams and let timers fire for some simulated time."""
        until = self.now + seconds
        while self.now < until:
            moved = [self._move(self.client, self.server, CLIENT)]
            moved.append(self._move(self.server, self.client, SERVER))
            if not any(moved):
                self._wait(until)

    def _move(
        self, source: AioquicConnection, target: AioquicConnection, sender: tuple[str, int]
    ) -> bool:
        # A server knows no address to send to before it received something.
        if source is self.server and not source._network_paths:
            return False
        datagrams = source.datagrams_to_send(self.now)
        for data, _ in datagrams:
            if not next(self.drops, False):
                target.receive_datagram(data, sender, self.now)
        while (event := target.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.received[target] += len(event.data)
            elif isinstance(event, DatagramFrameReceived):
                self.datagrams.append(event.data)
        return bool(datagrams)

    def _wait(self, until: float) -> None:
        due = [until]
        for engine in (self.client, self.server):
            if (timer := engine.get_timer()) is not None:
                due.append(max(timer, self.now + 0.001))
        self.now = min(due)
        for engine in (self.client, self.server):
            timer = engine.get_timer()
            if timer is not None and timer <= self.now:
                engine.handle_timer(self.now)


@pytest.fixture
def wire(small_window: int) -> Wire:
    assert small_window == WINDOW
    wire = Wire()
    wire.settle()
    assert wire.client._handshake_complete
    return wire


def test_open_stream_is_known_to_the_server_without_a_byte(wire: Wire) -> None:
    assert not wire.server.find_stream()
    wire.client.open_stream()
    wire.settle()
    assert wire.server.find_stream()
    assert wire.received[wire.server] == 0


@pytest.mark.parametrize("is_client_sending", [True, False])
def test_credit_is_what_was_consumed_plus_the_window(wire: Wire, is_client_sending: bool) -> None:
    wire.open_stream()
    ends = (wire.client, wire.server)
    sender, receiver = ends if is_client_sending else ends[::-1]
    sender.send_stream_data(STREAM_ID, bytes(4 * WINDOW))
    wire.settle()
    assert wire.received[receiver] == WINDOW
    assert sender.unsent_bytes == 3 * WINDOW

    assert not receiver.consume(WINDOW // 4 - 1)
    wire.settle()
    assert wire.received[receiver] == WINDOW

    assert receiver.consume(1)
    wire.settle()
    assert wire.received[receiver] == WINDOW + WINDOW // 4

    for _ in range(8):
        receiver.consume(wire.received[receiver] - receiver._consumed_bytes)
        wire.settle()
    assert wire.received[receiver] == 4 * WINDOW
    assert sender.unsent_bytes == 0


def test_credit_that_was_lost_is_given_again(wire: Wire) -> None:
    wire.open_stream()
    wire.client.send_stream_data(STREAM_ID, bytes(2 * WINDOW))
    wire.settle()
    wire.server.consume(WINDOW)
    wire.drops = iter([True] * 6)
    wire.settle(5)
    assert wire.received[wire.server] == 2 * WINDOW


def test_end_is_finished_once_acknowledged(wire: Wire) -> None:
    wire.open_stream()
    wire.client.send_stream_data(STREAM_ID, b"last", end_stream=True)
    assert not wire.client.is_sending_finished
    wire.settle()
    assert wire.client.is_sending_finished


def test_termination_is_known_before_the_closing_period_ends(wire: Wire) -> None:
    assert wire.client.termination is None
    wire.server.close(error_code=7)
    for data, _ in wire.server.datagrams_to_send(wire.now):
        wire.client.receive_datagram(data, SERVER, wire.now)
    assert wire.client.termination is not None
    assert wire.client.termination.code == 7


def test_peer_may_open_one_stream_from_the_client_and_none_from_the_server(wire: Wire) -> None:
    assert wire.client._remote_max_streams_bidi == 1
    assert wire.server._remote_max_streams_bidi == 0
    assert wire.client._remote_max_streams_uni == wire.server._remote_max_streams_uni == 0


def test_key_of_the_server_is_seen_by_the_client(wire: Wire) -> None:
    assert wire.client.peer_key == ed25519_key_of(wire.server._configuration.certificate)
    assert wire.server.peer_key is None


# Reports.


class Sink(Notes):
    """What an engine reports."""

    def on_handshake(self) -> None:
        self.seen.append("handshake")

    def on_data(self, data: bytes) -> None:
        self.seen.append(data)

    def on_reset(self) -> None:
        self.seen.append("reset")

    def on_ping_acknowledged(self) -> None:
        self.seen.append("pong")

    def on_connection_id(self, connection_id: bytes, *, is_valid: bool) -> None:
        self.seen.append(("connection ID", is_valid))

    def on_closing_over(self) -> None:
        self.seen.append("over")


def carried(wire: Wire, source: AioquicConnection, target: AioquicConnection) -> list[Any]:
    """Carry what the source sends now, and return what the target reports of it."""
    for data, _ in source.datagrams_to_send(wire.now):
        target.receive_datagram(data, CLIENT if source is wire.client else SERVER, wire.now)
    sink = Sink()
    target.report(sink)
    return sink.seen


def test_bytes_of_one_batch_are_one_piece_before_the_end(wire: Wire) -> None:
    wire.open_stream()
    wire.client.write(noise(1, 3000), is_end=False)
    assert carried(wire, wire.client, wire.server) == [noise(1, 3000)]
    wire.client.write(b"last", is_end=True)
    assert carried(wire, wire.client, wire.server) == [b"last", "fin"]


def test_datagram_and_bytes_are_reported_each(wire: Wire) -> None:
    wire.open_stream()
    wire.client.queue_datagram(b"datagram")
    wire.client.write(b"data", is_end=False)
    seen = carried(wire, wire.client, wire.server)
    assert sorted(map(repr, seen)) == ["('datagram', b'datagram')", "b'data'"]


def test_ping_is_acknowledged(wire: Wire) -> None:
    wire.client.ping()
    assert carried(wire, wire.client, wire.server) == []
    wire.now += 0.1
    wire.server.handle_timer(wire.now)
    assert carried(wire, wire.server, wire.client) == ["pong"]


@pytest.mark.parametrize(
    "stop",
    [
        lambda client: client.reset_stream(STREAM_ID, 7),
        lambda client: client.stop_stream(STREAM_ID, 7),
    ],
)
def test_stream_that_is_reset_or_not_wanted_is_a_reset(
    wire: Wire, stop: Callable[[AioquicConnection], None]
) -> None:
    wire.open_stream()
    wire.client.write(b"x", is_end=False)
    wire.settle()
    stop(wire.client)
    assert carried(wire, wire.client, wire.server) == ["reset"]


def test_connection_ids_are_reported_when_they_come_and_go(wire: Wire) -> None:
    wire.client.change_connection_id()
    assert carried(wire, wire.client, wire.server) == [("connection ID", False)]
    carried(wire, wire.server, wire.client)
    another = Sink()
    wire.server.report(another)
    assert another.seen == [("connection ID", True)]


def test_closing_period_is_reported_when_it_is_over(wire: Wire) -> None:
    wire.client.terminate(7, "because")
    assert carried(wire, wire.client, wire.server) == []
    assert wire.server.termination == Termination(Origin.APPLICATION, 7, "because")
    due = wire.server.get_timer()
    assert due is not None
    wire.server.handle_timer(due)
    assert carried(wire, wire.client, wire.server) == ["over"]


def test_handshake_is_reported_at_both_ends() -> None:
    wire = Wire()
    seen = [carried(wire, wire.client, wire.server)]
    seen += [carried(wire, wire.server, wire.client), carried(wire, wire.client, wire.server)]
    assert ["handshake" in each for each in seen] == [False, True, True]


@pytest.mark.parametrize(
    ("event", "termination"),
    [
        ((0, None, ""), Termination(Origin.APPLICATION, 0)),
        ((1, None, "why"), Termination(Origin.APPLICATION, 1, "why")),
        ((1, 0, "why"), Termination(Origin.TRANSPORT, 1, "why")),
        ((1, 0, "Idle timeout"), Termination(Origin.SILENCE, reason="no answer from the peer")),
    ],
)
def test_termination_is_told_in_the_words_of_the_seam(
    event: tuple[int, int | None, str], termination: Termination
) -> None:
    assert termination_of(ConnectionTerminated(*event)) == termination


def test_round_trip_is_measured_and_losses_are_counted(wire: Wire) -> None:
    assert wire.client.lost_packets == 0
    wire.open_stream()
    wire.drops = iter([True, True])
    wire.client.write(bytes(30_000), is_end=True)
    wire.settle(5)
    assert wire.client.is_sending_finished
    assert wire.client.lost_packets == 2
    assert wire.server.lost_packets == 0


# Datagrams.


def test_largest_datagram_fills_a_packet_and_arrives(wire: Wire) -> None:
    largest = bytes(wire.client.max_datagram_bytes)
    assert len(largest) == wire.server.max_datagram_bytes == 1202
    wire.client.queue_datagram(largest)
    packets = wire.client.datagrams_to_send(wire.now)
    assert [len(data) for data, _ in packets] == [MAX_DATAGRAM_BYTES]
    wire.client.queue_datagram(largest)
    wire.settle()
    assert wire.datagrams == [largest]


def test_peer_of_small_frames_is_sent_no_larger_ones(wire: Wire) -> None:
    wire.client._remote_max_datagram_frame_size = 100
    assert wire.client.max_datagram_bytes == 97


def test_peer_without_datagrams_is_sent_none(wire: Wire) -> None:
    wire.client._remote_max_datagram_frame_size = None
    assert wire.client.max_datagram_bytes == 0


def test_queue_without_room_drops_the_oldest(wire: Wire) -> None:
    for number in range(MAX_WAITING_DATAGRAMS + 3):
        wire.client.queue_datagram(number.to_bytes(2, "big"))
    assert wire.client.dropped_datagrams == 3
    wire.settle()
    numbers = [int.from_bytes(data, "big") for data in wire.datagrams]
    assert numbers == list(range(3, MAX_WAITING_DATAGRAMS + 3))


@pytest.mark.parametrize("size", [1202, 1100, 600])
def test_flood_of_datagrams_and_the_stream_share_the_connection(wire: Wire, size: int) -> None:
    wire.open_stream()
    for _ in range(20):
        wire.client.send_stream_data(STREAM_ID, bytes(WINDOW // 16))
        for _ in range(MAX_WAITING_DATAGRAMS):
            wire.client.queue_datagram(bytes(size))
        _one_window(wire)
        wire.server.consume(wire.received[wire.server] - wire.server._consumed_bytes)
    assert wire.client.unsent_bytes > 0
    assert wire.client.dropped_datagrams > 0
    carried = size * len(wire.datagrams)
    assert 0.4 < carried / (carried + wire.received[wire.server]) < 0.6


def _one_window(wire: Wire) -> None:
    """Let the client send once, as much as the congestion window allows, and hear of it."""
    wire.now += 0.01
    wire.client._loss._cc.congestion_window = 20_000
    wire._move(wire.client, wire.server, CLIENT)
    wire.now += 0.03  # beyond the acknowledgement delay
    wire.server.handle_timer(wire.now)
    wire._move(wire.server, wire.client, SERVER)


def test_stream_without_credit_does_not_hold_up_datagrams(wire: Wire) -> None:
    wire.open_stream()
    wire.client.send_stream_data(STREAM_ID, bytes(2 * WINDOW))
    wire.settle()
    assert wire.client.unsent_bytes == WINDOW
    for _ in range(50):
        wire.client.queue_datagram(bytes(1000))
    wire.settle()
    assert len(wire.datagrams) == 50


def test_datagrams_that_were_lost_are_not_sent_again(wire: Wire) -> None:
    wire.client.queue_datagram(b"lost")
    wire.drops = iter([True])
    wire.settle(5)
    wire.client.queue_datagram(b"found")
    wire.settle()
    assert wire.datagrams == [b"found"]


# The guard: these fail, and name the place, when aioquic changes under `aioquic_engine`.


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_write_connection_limits", ["self", "builder", "space"]),
        ("_write_stream_limits", ["self", "builder", "space", "stream"]),
        ("_write_datagram_frame", ["self", "builder", "data", "frame_type"]),
        ("_write_stream_frame", ["self", "builder", "space", "stream", "max_offset"]),
        ("_get_or_create_stream_for_send", ["self", "stream_id"]),
        ("_on_connection_limit_delivery", ["self", "delivery", "limit"]),
        ("_on_max_stream_data_delivery", ["self", "delivery", "stream"]),
    ],
)
def test_aioquic_still_has_the_methods(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(QuicConnection, method)).parameters) == parameters


def test_aioquic_still_calls_what_is_replaced() -> None:
    source = inspect.getsource(QuicConnection._write_application)
    assert "self._write_connection_limits(" in source
    assert "self._write_stream_limits(" in source
    assert source.index("self._write_datagram_frame(") < source.index("self._write_stream_frame(")
    assert "self._loss._pacer.next_send_time(now=now)" in source
    assert "self._loss._pacer.update_after_send(now=now)" in source


def test_aioquic_still_has_the_attributes(wire: Wire) -> None:
    wire.open_stream()
    assert isinstance(wire.client._loss._pacer, Pacer)
    for engine in (wire.client, wire.server):
        stream = engine._streams[STREAM_ID]
        assert stream.sender._buffer_stop == stream.sender.highest_offset == 0
        assert stream.max_stream_data_local == stream.max_stream_data_local_sent == WINDOW
        assert engine._local_max_data.value == engine._local_max_data.sent == WINDOW
        assert engine._close_event is None
        assert engine._datagrams_pending.maxlen == MAX_WAITING_DATAGRAMS
        assert engine._remote_max_datagram_frame_size == MAX_FRAME_BYTES
        assert not len(stream.sender._pending)
