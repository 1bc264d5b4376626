"""Orders carried out over sockets in place of devices, for a client that reads or does not."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from shim.gate import orders
from shim.gate.io.executor import Executor
from shim.protocol.datagrams import Forget, Ping
from shim.protocol.gate import (
    CLIENT_OF_GATE,
    GATE,
    Accepted,
    Cancel,
    DropCount,
    Dropped,
    DropReason,
    Open,
)
from shim.protocol.handover import pair
from shim.protocol.link import LinkClosedError, Message

OPEN = Open(1, bytes(12), "203.0.113.7", 443)
PING = Ping(1, 4, "203.0.113.7", 8, True, 1, b"who")


@dataclass
class Router:
    """Cuts packets at `|`, and drops what was not sent."""

    unsent: list[Message] = field(default_factory=list)

    @property
    def path_mtus(self) -> Router:
        return self

    def cut(self, framed: bytes) -> list[bytes]:
        return framed.split(b"|")

    def on_unsent(self, message: Message, now: float) -> Iterable[orders.Order]:
        self.unsent.append(message)
        return (orders.Drop(DropReason.CLIENT),)


@dataclass
class Datagrams:
    """A link for datagrams that keeps what it is given."""

    sent: list[Message] = field(default_factory=list)
    late: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    def send_later(self, message: Message) -> None:
        self.late.append(message)


@dataclass
class Streams:
    """Connections to the resolver that keep their answers."""

    replies: list[tuple[int, bytes]] = field(default_factory=list)

    def reply(self, number: int, wire: bytes) -> None:
        self.replies.append((number, wire))


@dataclass
class Tap:
    """A tap that somebody may read."""

    is_on: bool = False
    copied: list[bytes] = field(default_factory=list)

    def copy(self, framed: bytes, *, is_outgoing: bool) -> None:
        assert not is_outgoing
        self.copied.append(framed)


class Bench:
    """An executor, and the far ends of all that it writes to."""

    def __init__(self) -> None:
        self.capture, self._capture = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.flow, self._flow = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client, self._gate = pair(CLIENT_OF_GATE, GATE)
        for sock in (self.capture, self._capture, self.flow, self._flow):
            sock.setblocking(False)
        self.router, self.datagrams = Router(), Datagrams()
        self.streams, self.tap = Streams(), Tap()
        self.executor = Executor(
            self._capture.fileno(),
            self._flow.fileno(),
            self._gate,
            self.datagrams,  # type: ignore[arg-type]
            self.streams,  # type: ignore[arg-type]
            self.tap,  # type: ignore[arg-type]
            self.router,  # type: ignore[arg-type]
            Counter(),
        )

    def do(self, *given: orders.Order) -> None:
        self.executor.execute(given)

    def heard(self) -> list[Message]:
        """Return all that the client has been told; descriptors are closed."""
        messages = []
        while (received := self.client.receive()) is not None:
            messages.append(received[0])
            for fd in received[1]:
                os.close(fd)
        return messages

    def fill(self) -> int:
        """Send to the client until it has no more room. Returns how often."""
        count = 0
        while not self.router.unsent:
            self.do(orders.SendClient(OPEN))
            count += 1
        self.router.unsent.clear()
        self.executor.dropped.clear()
        return count - 1

    def close(self) -> None:
        for end in (self.capture, self._capture, self.flow, self._flow, self.client, self._gate):
            end.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as one:
        yield one


@pytest.fixture
def accepted() -> Iterator[tuple[socket.socket, int]]:
    """An application's socket, and the descriptor of its accepted connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as app,
    ):
        app.settimeout(5)
        yield app, listener.accept()[0].detach()


def test_packets_go_to_the_device_that_is_said(bench: Bench) -> None:
    bench.do(orders.WriteCapture(b"in"), orders.WriteFlow(b"on"))
    assert bench.capture.recv(64) == b"in"
    assert bench.flow.recv(64) == b"on"
    assert not bench.executor.dropped


def test_packet_for_a_short_path_is_cut_and_one_for_the_flow_device_is_not(bench: Bench) -> None:
    bench.do(orders.WriteCapture(b"one|two"), orders.WriteFlow(b"one|two"))
    assert [bench.capture.recv(64) for _ in range(2)] == [b"one", b"two"]
    assert bench.flow.recv(64) == b"one|two"


def test_packet_that_a_device_does_not_take_is_counted_for_that_device(bench: Bench) -> None:
    bench.tap.is_on = True
    bench.capture.close()
    bench.flow.close()
    bench.do(orders.WriteCapture(b"in"), orders.WriteFlow(b"on"), orders.WriteFlow(b"on"))
    assert bench.executor.dropped == {DropReason.CAPTURE_DEVICE: 1, DropReason.FLOW_DEVICE: 2}
    assert bench.tap.copied == []


def test_tap_gets_what_applications_get(bench: Bench) -> None:
    bench.do(orders.WriteCapture(b"before"))
    bench.tap.is_on = True
    bench.do(orders.WriteCapture(b"one|two"), orders.WriteFlow(b"on"))
    assert bench.tap.copied == [b"one", b"two"]


def test_messages_go_over_the_link_that_is_theirs(bench: Bench) -> None:
    bench.do(
        orders.SendClient(OPEN),
        orders.SendDatagram(PING),
        orders.Notify(Forget(3)),
        orders.Notify(Cancel(4)),
    )
    assert bench.heard() == [OPEN, Cancel(4)]
    assert bench.datagrams.sent == [PING]
    assert bench.datagrams.late == [Forget(3)]


def test_answer_goes_to_the_connection_of_its_number(bench: Bench) -> None:
    bench.do(orders.ReplyStream(5, b"answer"))
    assert bench.streams.replies == [(5, b"answer")]


def test_message_that_the_client_does_not_take_is_told_to_its_decider(bench: Bench) -> None:
    bench.fill()
    bench.do(orders.SendClient(OPEN))
    assert bench.router.unsent == [OPEN]
    assert bench.executor.dropped == {DropReason.CLIENT: 1}


def test_client_that_did_not_read_is_notified_later_in_order(bench: Bench) -> None:
    filled = bench.fill()
    bench.do(orders.Notify(Cancel(1)), orders.Notify(Cancel(2)))
    bench.executor.send_late()
    assert len(bench.heard()) == filled
    bench.executor.send_late()
    bench.executor.send_late()
    assert bench.heard() == [Cancel(1), Cancel(2)]


def test_client_that_has_gone_is_the_end(bench: Bench) -> None:
    bench.client.close()
    with pytest.raises(LinkClosedError):
        bench.do(orders.SendClient(OPEN))


def test_connection_is_passed_to_the_client_and_closed_here(
    bench: Bench, accepted: tuple[socket.socket, int]
) -> None:
    app, connection = accepted
    bench.do(orders.PassSocket(connection, 7))
    assert not os.path.exists(f"/proc/self/fd/{connection}")
    received = bench.client.receive()
    assert received is not None
    message, (fd,) = received
    assert message == Accepted(7)
    with socket.socket(fileno=fd) as passed:
        passed.sendall(b"through")
        assert app.recv(64) == b"through"


def test_connection_that_the_client_does_not_take_is_reset(
    bench: Bench, accepted: tuple[socket.socket, int]
) -> None:
    app, connection = accepted
    bench.fill()
    bench.do(orders.PassSocket(connection, 7))
    assert bench.router.unsent == [Accepted(7)]
    assert not os.path.exists(f"/proc/self/fd/{connection}")
    with pytest.raises(ConnectionResetError):
        app.recv(64)


def test_connection_that_nobody_asked_for_is_reset(
    bench: Bench, accepted: tuple[socket.socket, int]
) -> None:
    app, connection = accepted
    bench.do(orders.ResetSocket(connection))
    assert not os.path.exists(f"/proc/self/fd/{connection}")
    with pytest.raises(ConnectionResetError):
        app.recv(64)


def test_drops_are_reported_once(bench: Bench) -> None:
    bench.executor.report()
    bench.do(
        orders.Drop(DropReason.SHORT),
        orders.Drop(DropReason.FRAGMENT, 3),
        orders.Drop(DropReason.SHORT),
    )
    bench.executor.report()
    bench.executor.report()
    (told,) = bench.heard()
    expected = (DropCount(DropReason.SHORT, 2), DropCount(DropReason.FRAGMENT, 3))
    assert told == Dropped(expected)


def test_drops_that_the_client_did_not_hear_of_are_kept(bench: Bench) -> None:
    bench.fill()
    bench.do(orders.Drop(DropReason.SHORT))
    bench.executor.report()
    assert Dropped not in map(type, bench.heard())
    bench.executor.report()
    assert bench.heard() == [Dropped((DropCount(DropReason.SHORT, 1),))]
