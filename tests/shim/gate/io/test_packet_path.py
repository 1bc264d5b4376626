"""The packet path over sockets in place of devices: verbatim, in bursts, and never waiting."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from scapy.layers.inet import IP, TCP, UDP

from shim.gate.io.packet_path import BURST, LARGE_BYTES, Forwarder
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol.gate import DropReason

APP, FAR = "198.18.0.2", "203.0.113.7"
OFFLOAD = b"\x01\x01" + bytes(8)


def segment(size: int = 0, flags: str = "A") -> bytes:
    layers = IP(src=APP, dst=FAR) / TCP(sport=4000, dport=443, flags=flags)
    return OFFLOAD + bytes(layers) + bytes(size)


DATAGRAM = NO_OFFLOAD + bytes(IP(src=APP, dst=FAR) / UDP(sport=4000, dport=7) / b"hello")


@dataclass
class Tap:
    """A tap that somebody may read."""

    is_on: bool = False
    copied: list[tuple[bytes, bool]] = field(default_factory=list)

    def copy(self, framed: memoryview, *, is_outgoing: bool) -> None:
        self.copied.append((bytes(framed), is_outgoing))


class Bench:
    """A forwarder, and the far ends of both devices."""

    def __init__(self) -> None:
        self.capture, self._capture = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.flow, self._flow = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets = (self.capture, self._capture, self.flow, self._flow)
        for sock in self._sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.is_full = False
        self.tap = Tap()
        self.dropped: Counter[DropReason] = Counter()
        self.slow: list[bytes] = []
        self.forwarder = Forwarder(
            self._capture.fileno(),
            self._flow.fileno(),
            self,  # type: ignore[arg-type]
            self.tap,  # type: ignore[arg-type]
            self.dropped,
            self.slow.append,
        )

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as one:
        yield one


def packets(device: socket.socket) -> list[bytes]:
    """Return all that has been written to a device."""
    found = []
    try:
        while True:
            found.append(device.recv(1 << 17))
    except BlockingIOError:
        return found


def test_segment_of_a_flow_is_passed_on_with_its_header(bench: Bench) -> None:
    bench.capture.send(segment(100))
    bench.forwarder.on_capture()
    assert packets(bench.flow) == [segment(100)]
    assert bench.slow == []


def test_answer_of_the_flow_namespace_is_passed_on_whatever_it_is(bench: Bench) -> None:
    bench.flow.send(segment(flags="SA"))
    bench.forwarder.on_flow()
    assert packets(bench.capture) == [segment(flags="SA")]


@pytest.mark.parametrize("sent", [segment(flags="S"), DATAGRAM], ids=["SYN", "datagram"])
def test_everything_else_takes_the_slow_path(bench: Bench, sent: bytes) -> None:
    bench.capture.send(sent)
    bench.forwarder.on_capture()
    assert bench.slow == [sent]
    assert packets(bench.flow) == []


def test_device_with_nothing_to_read_is_left(bench: Bench) -> None:
    bench.forwarder.on_capture()
    bench.forwarder.on_flow()
    assert (bench.slow, packets(bench.flow), packets(bench.capture)) == ([], [], [])


LARGE = segment(LARGE_BYTES - len(segment()))


@pytest.mark.parametrize(("sent", "count"), [(LARGE, 4), (LARGE[:-1], 1)], ids=["large", "small"])
def test_reading_goes_on_only_after_large_packets(bench: Bench, sent: bytes, count: int) -> None:
    for _ in range(4):
        bench.capture.send(sent)
        bench.flow.send(sent)
    bench.forwarder.on_capture()
    assert len(packets(bench.flow)) == count
    bench.forwarder.on_flow()
    assert len(packets(bench.capture)) == count


def test_one_direction_does_not_starve_the_other(bench: Bench) -> None:
    bench.is_full = True
    for _ in range(BURST + 5):
        bench.capture.send(DATAGRAM)
    bench.forwarder.on_capture()
    assert bench.dropped == {DropReason.DATAGRAM_LINK: BURST}


def test_datagrams_are_dropped_unread_while_the_client_reads_none(bench: Bench) -> None:
    bench.is_full = True
    for sent in (DATAGRAM, DATAGRAM, segment()):
        bench.capture.send(sent)
    bench.forwarder.on_capture()
    assert bench.dropped == {DropReason.DATAGRAM_LINK: 2}
    assert packets(bench.flow) == [segment()]
    assert bench.slow == []


def test_packet_that_a_device_does_not_take_is_counted_for_that_device(bench: Bench) -> None:
    bench.tap.is_on = True
    bench.capture.send(segment())
    bench.flow.send(segment())
    bench.flow.shutdown(socket.SHUT_RD)
    bench.capture.shutdown(socket.SHUT_RD)
    bench.forwarder.on_capture()
    bench.forwarder.on_flow()
    assert bench.dropped == {DropReason.FLOW_DEVICE: 1, DropReason.CAPTURE_DEVICE: 1}
    assert bench.tap.copied == [(segment(), True)]


def test_tap_sees_both_directions_while_it_is_on(bench: Bench) -> None:
    for is_on in (False, True):
        bench.tap.is_on = is_on
        bench.capture.send(segment())
        bench.flow.send(segment(flags="FA"))
        bench.forwarder.on_capture()
        bench.forwarder.on_flow()
    assert bench.tap.copied == [(segment(), True), (segment(flags="FA"), False)]
