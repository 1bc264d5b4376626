"""What a tap copies, what it loses, and when it ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from dns.pool import Pool, buffer_size
from shim.gate.io.tap import Tap
from shim.gate.resolver import Names
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import DEVICE4, DEVICE6, GATEWAY4, POOL4, POOL6
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from shim.protocol.tap import SNAP_BYTES, TAP, Copied, Tapped

SLOTS = 16
NAME = "www.example.com"


class Bench:
    """A tap, and its reader once somebody captures."""

    def __init__(self) -> None:
        memory = memoryview(bytearray(buffer_size(SLOTS)))
        self.pool = Pool(memory, IPv4Network(POOL4), IPv6Network(POOL6), b"key", SLOTS)
        self.tap = Tap(Names(self.pool))
        self.reader = self.begin()

    def begin(self) -> Link:
        reader, gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tap.open(gate.detach())
        return Link(reader, TAP)

    def hear(self) -> Message:
        received = self.reader.receive()
        assert received is not None
        return received[0]

    def copied(self, packet: object, *, is_outgoing: bool = True) -> Copied:
        self.tap.copy(NO_OFFLOAD + bytes(packet), is_outgoing=is_outgoing)  # type: ignore[call-overload]
        message = self.hear()
        assert isinstance(message, Copied)
        return message


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    assert bench.hear() == Tapped()
    yield bench
    bench.tap.close()
    bench.reader.close()


def test_packet_is_copied_with_time_and_direction(bench: Bench) -> None:
    packet = bytes(IP(src=DEVICE4, dst="192.0.2.1") / UDP() / b"data")
    before = time.time_ns()
    for out in (True, False):
        found = bench.copied(packet, is_outgoing=out)
        assert (found.packet, found.length, found.is_outgoing) == (packet, len(packet), out)
        assert (found.dropped, found.name) == (0, "")
        assert before <= found.time_ns <= time.time_ns()


def test_far_end_has_its_name_in_both_directions_and_families(bench: Bench) -> None:
    assigned = bench.pool.assign(NAME, 0.0)
    assert assigned is not None
    for virtual, own, ip in zip(assigned, (DEVICE4, DEVICE6), (IP, IPv6), strict=True):
        assert bench.copied(ip(src=own, dst=str(virtual)) / UDP()).name == NAME
        assert bench.copied(ip(src=str(virtual), dst=own) / UDP(), is_outgoing=False).name == NAME
        assert bench.copied(ip(src=str(virtual), dst=own) / UDP()).name == ""
    assert bench.copied(IP(src=GATEWAY4, dst=DEVICE4) / UDP(), is_outgoing=False).name == ""


def test_packet_longer_than_any_is_cut_off(bench: Bench) -> None:
    found = bench.copied(b"\x60" + bytes(SNAP_BYTES + 39))
    assert (len(found.packet), found.length) == (SNAP_BYTES, SNAP_BYTES + 40)


def test_reader_that_does_not_read_loses_packets_and_hears_how_many(bench: Bench) -> None:
    packet = NO_OFFLOAD + bytes(IP() / UDP() / bytes(9000))
    for _ in range(500):
        bench.tap.copy(packet, is_outgoing=True)
    got = 0
    while (received := bench.reader.receive()) is not None:
        assert isinstance(received[0], Copied)
        assert received[0].dropped == 0
        got += 1
    assert 0 < got < 500
    assert bench.copied(b"\x45").dropped == 500 - got
    assert bench.copied(b"\x45").dropped == 0


def test_reader_that_has_gone_ends_it(bench: Bench) -> None:
    bench.reader.close()
    bench.tap.copy(NO_OFFLOAD + bytes(IP()), is_outgoing=True)
    assert not bench.tap.is_on


def test_next_capture_replaces_the_one_before(bench: Bench) -> None:
    former, bench.reader = bench.reader, bench.begin()
    with pytest.raises(LinkClosedError):
        former.receive()
    former.close()
    assert bench.hear() == Tapped()
    assert bench.copied(b"\x45").packet == b"\x45"


def test_losses_of_a_capture_are_not_those_of_the_next(bench: Bench) -> None:
    former = bench.reader
    for _ in range(500):
        bench.tap.copy(NO_OFFLOAD + bytes(9000), is_outgoing=True)
    bench.reader = bench.begin()
    former.close()
    assert bench.hear() == Tapped()
    assert bench.copied(b"\x45").dropped == 0


@pytest.mark.parametrize("kind", ["file", "udp"])
def test_what_is_no_link_is_a_violation_and_is_closed(bench: Bench, kind: str) -> None:
    fd = os.memfd_create("x")
    if kind == "udp":
        os.close(fd)
        fd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
    with pytest.raises(ViolationError):
        bench.tap.open(fd)
    with pytest.raises(OSError):
        os.fstat(fd)


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_copied(packet: bytes, is_outgoing: bool) -> None:
    bench = Bench()
    try:
        assert bench.hear() == Tapped()
        assert bench.copied(packet, is_outgoing=is_outgoing).packet == packet
    finally:
        bench.tap.close()
        bench.reader.close()
