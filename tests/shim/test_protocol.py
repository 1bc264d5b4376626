"""The link: what may cross it does, whatever breaks a rule ends it, and no descriptor is lost."""

from __future__ import annotations

import errno
import os
import socket
import typing
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.protocol import VERSION, datagrams
from shim.protocol import gate as messages
from shim.protocol.common import Failed, Fault, Hello
from shim.protocol.handover import pair
from shim.protocol.link import Link, LinkClosedError, Role, ViolationError
from shim.protocol.monitor import (
    CLIENT_OF_MONITOR,
    MAX_PREFIXES,
    MONITOR,
    Capture,
    Mark,
    Prefix,
    ToMonitor,
    Welcome,
)

KEY = bytes(12)

Ends = tuple[socket.socket, Link]


@pytest.fixture
def to_monitor() -> Iterator[Ends]:
    yield from _ends(MONITOR)


@pytest.fixture
def to_client() -> Iterator[Ends]:
    yield from _ends(messages.CLIENT_OF_GATE)


def _ends(role: Role) -> Iterator[Ends]:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(other, role)
    yield raw, link
    raw.close()
    link.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_message_sent_is_received() -> None:
    gate, client = pair(messages.GATE, messages.CLIENT_OF_GATE)
    assert gate.send(messages.Open(7, KEY, "www.example.com", 443))
    assert client.receive() == (messages.Open(7, KEY, "www.example.com", 443), [])
    assert client.send(messages.Opened(7))
    assert gate.receive() == (messages.Opened(7), [])
    gate.close()
    client.close()


def test_socket_passed_is_the_same_socket() -> None:
    gate, client = pair(messages.GATE, messages.CLIENT_OF_GATE)
    mine, yours = socket.socketpair()
    assert gate.send(messages.Accepted(1), (yours.fileno(),))
    yours.close()
    received = client.receive()
    assert received is not None
    message, (fd,) = received
    assert message == messages.Accepted(1)
    with socket.socket(fileno=fd) as theirs:
        mine.sendall(b"through")
        assert theirs.recv(10) == b"through"
    for end in (gate, client, mine):
        end.close()


def test_nothing_sent_is_nothing_received(to_monitor: Ends) -> None:
    assert to_monitor[1].receive() is None


def test_peer_gone_is_the_end(to_monitor: Ends) -> None:
    raw, link = to_monitor
    raw.close()
    with pytest.raises(LinkClosedError):
        link.receive()
    with pytest.raises(LinkClosedError):
        link.send(Hello(1))


def test_full_link_takes_nothing_and_says_so() -> None:
    gate, client = pair(messages.GATE, messages.CLIENT_OF_GATE)
    sent = 0
    while gate.send(messages.Open(sent, KEY, "n" * 200, 80)):
        sent += 1
    for number in range(sent):
        assert client.receive() == (messages.Open(number, KEY, "n" * 200, 80), [])
    assert client.receive() is None
    gate.close()
    client.close()


@pytest.mark.parametrize(
    "packet",
    [
        b"\x00",
        msgspec.msgpack.encode(["unknown"]),
        msgspec.msgpack.encode(["hello"]),
        msgspec.msgpack.encode(["hello", "one"]),
        msgspec.msgpack.encode(["hello", 1, 2]),
        msgspec.msgpack.encode(["outer-socket-wanted", 5, "tcp"]),
        msgspec.msgpack.encode(["outer-socket-wanted", 4, "raw"]),
        msgspec.msgpack.encode(["open", 1, bytes(12), "host", 80]),
        msgspec.msgpack.encode(Hello(1)) + b"\x00",
        msgspec.msgpack.encode({"type": "hello", "version": 1}),
    ],
)
def test_monitor_receives_what_is_no_request_of_its(packet: bytes, to_monitor: Ends) -> None:
    raw, link = to_monitor
    raw.send(packet)
    with pytest.raises(ViolationError):
        link.receive()


def test_message_larger_than_its_type_is_refused_though_another_may_be_larger(
    to_monitor: Ends,
) -> None:
    raw, link = to_monitor
    raw.send(msgspec.msgpack.encode(["hello", 1]).ljust(Hello.SIZE + 1, b"\x00"))
    with pytest.raises(ViolationError):
        link.receive()


def test_message_larger_than_all_types_is_refused(to_monitor: Ends) -> None:
    raw, link = to_monitor
    raw.send(bytes(MONITOR.largest + 1))
    with pytest.raises(ViolationError):
        link.receive()


@pytest.mark.parametrize("count", [1, 2, 253])
def test_descriptors_nobody_asked_for_are_refused_and_closed(count: int, to_monitor: Ends) -> None:
    raw, link = to_monitor
    before = open_descriptors()
    socket.send_fds(raw, [msgspec.msgpack.encode(Hello(1))], [0] * count)
    with pytest.raises(ViolationError):
        link.receive()
    assert open_descriptors() == before


def test_descriptor_missing_is_refused(to_client: Ends) -> None:
    raw, link = to_client
    raw.send(msgspec.msgpack.encode(messages.Accepted(1)))
    with pytest.raises(ViolationError):
        link.receive()


def test_largest_capture_fits_its_size() -> None:
    prefix = Prefix(b"\xff" * 16, 128)
    capture = Capture(True, True, (prefix,) * MAX_PREFIXES)
    assert len(msgspec.msgpack.encode(capture)) <= Capture.SIZE


def test_largest_messages_between_client_and_gate_fit_their_sizes() -> None:
    largest = 2**63
    key = bytes(messages.MAX_KEY)
    largest_of_each = [
        messages.Open(largest, key, "n" * messages.MAX_NAME, 65535),
        messages.Lookup(largest, "\\000" * messages.MAX_NAME, 65535),
        messages.LookedUp(largest, messages.Outcome.UNREACHABLE, bytes(65535)),
        messages.Adopt((messages.Known(largest, key, True),) * messages.MAX_KNOWN),
        messages.Closed((largest,) * messages.MAX_CLOSED),
        messages.Configure(True, ("n" * messages.MAX_NAME,) * messages.MAX_SUFFIXES),
    ]
    for message in largest_of_each:
        assert len(msgspec.msgpack.encode(message)) <= message.SIZE


def test_largest_messages_about_datagrams_fit_their_sizes() -> None:
    largest, name = 2**63, "n" * messages.MAX_NAME
    payload = bytes(datagrams.MAX_PAYLOAD)
    largest_of_each = [
        datagrams.Send(largest, 6, name, 65535, 255, True, payload),
        datagrams.Deliver(largest, name, 65535, payload),
        datagrams.Undeliverable(largest, name, 65535, 255, 255, 0xFFFFFFFF, name),
    ]
    for message in largest_of_each:
        assert len(msgspec.msgpack.encode(message)) <= message.SIZE


@pytest.mark.parametrize(
    "packet",
    [
        ["deliver", 1, "192.0.2.1", 0, b""],
        ["deliver", 1, "192.0.2.1", 65536, b""],
        ["deliver", 1, "192.0.2.1", 53, bytes(datagrams.MAX_PAYLOAD + 1)],
        ["deliver", 1, "n" * 254, 53, b""],
        ["undeliverable", 1, "192.0.2.1", 53, 256, 3, 0, ""],
        ["undeliverable", 1, "192.0.2.1", 53, 3, -1, 0, ""],
        ["send", 1, 4, "192.0.2.1", 53, 63, True, b""],
    ],
)
def test_gate_receives_what_is_no_message_about_a_datagram(packet: list[object]) -> None:
    with pytest.raises(msgspec.MsgspecError):
        datagrams.GATE.decoder.decode(msgspec.msgpack.encode(packet))


def test_every_role_has_room_for_the_descriptors_of_its_types() -> None:
    assert CLIENT_OF_MONITOR.fds == Welcome.FDS == 2
    assert MONITOR.fds == Mark.FDS == 1


@given(st.binary(min_size=1, max_size=256))
def test_random_bytes_are_a_message_or_a_violation(packet: bytes) -> None:
    for role in (MONITOR, messages.GATE, messages.CLIENT_OF_GATE, datagrams.GATE):
        raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = Link(other, role)
        raw.send(packet)
        try:
            received = link.receive()
            assert received is not None
            assert isinstance(
                received[0], typing.get_args(ToMonitor | messages.ToGate | datagrams.ToGate)
            )
        except ViolationError:
            pass
        finally:
            raw.close()
            link.close()


def test_what_the_peer_said_last_is_heard_also_if_it_has_not_read_everything() -> None:
    one, other = pair(CLIENT_OF_MONITOR, MONITOR)
    one.send(Hello(VERSION))
    other.send(Failed(Fault.BUSY, 0))
    other.close()
    assert one.receive() == (Failed(Fault.BUSY, 0), [])
    with pytest.raises(LinkClosedError):
        one.receive()
    one.close()


@pytest.mark.parametrize("error", [errno.ETOOMANYREFS, errno.ENOBUFS])
def test_kernel_without_room_is_a_peer_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def send_fds(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    one, other = pair(CLIENT_OF_MONITOR, MONITOR)
    monkeypatch.setattr(socket, "send_fds", send_fds)
    assert one.send(Mark(), (0,)) is False
    one.close()
    other.close()
