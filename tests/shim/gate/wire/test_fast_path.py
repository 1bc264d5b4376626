"""The fast path against the slow one: it takes nothing that `packet.read` would treat otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet as Layers

from shim.gate.wire import packet, tun
from shim.gate.wire.fast_path import is_datagram, is_segment_of_flow
from shim.gate.wire.packet import Packet
from shim.gate.wire.tun import NO_OFFLOAD

APP4, FAR4 = "198.18.0.2", "203.0.113.7"
APP6, FAR6 = "fd6f:7670:6e00::2", "2001:db8::7"


def ip4(**fields: object) -> Layers:
    return IP(src=APP4, dst=FAR4, **fields)


def ip6(**fields: object) -> Layers:
    return IPv6(src=APP6, dst=FAR6, **fields)


def buffer(raw: bytes, rest: int = 0xFF) -> tuple[bytearray, int]:
    """Return the buffer of a gate into which a packet was read after others, and the size."""
    size = len(NO_OFFLOAD) + len(raw)
    return bytearray(NO_OFFLOAD + raw) + bytearray([rest]) * (tun.READ_BYTES - size), size


def tcp(flags: str = "A", **fields: object) -> Layers:
    return TCP(sport=4000, dport=443, flags=flags, **fields)


SEGMENTS = [
    ip4() / tcp(),
    ip4(ttl=2) / tcp("PA") / b"data",
    ip4(flags="DF") / tcp("R"),
    ip4(options=b"\x01\x01\x01\x00") / tcp("F"),
    ip4() / tcp("A", options=[("MSS", 1460)]),
    ip6() / tcp(),
    ip6(hlim=2) / tcp("FA"),
]
NO_SEGMENTS = [
    ip4() / tcp("S"),
    ip4() / tcp("SA"),
    ip4(options=b"\x01\x01\x01\x00") / tcp("S"),
    ip4(ttl=1) / tcp(),
    ip4(ttl=0) / tcp(),
    ip4(flags="MF") / tcp(),
    ip4(frag=1) / tcp(),
    ip4(frag=256) / tcp(),
    ip4() / UDP(sport=1, dport=2) / bytes(20),
    ip4() / ICMP() / bytes(20),
    ip6() / tcp("S"),
    ip6(hlim=1) / tcp(),
    ip6() / UDP(sport=1, dport=2) / bytes(20),
    ip6() / IPv6ExtHdrDestOpt() / tcp(),
    ip6() / IPv6ExtHdrFragment(m=1) / tcp(),
]


@pytest.mark.parametrize("sent", SEGMENTS, ids=repr)
def test_segment_of_a_flow_is_forwarded(sent: Layers) -> None:
    assert is_segment_of_flow(*buffer(bytes(sent)))


@pytest.mark.parametrize("sent", NO_SEGMENTS, ids=repr)
def test_everything_else_takes_the_slow_path(sent: Layers) -> None:
    assert not is_segment_of_flow(*buffer(bytes(sent)))
    assert not is_segment_of_flow(*buffer(bytes(sent), rest=0))


@pytest.mark.parametrize("sent", [ip4() / tcp(), ip6() / tcp()], ids=["IPv4", "IPv6"])
def test_segment_that_is_cut_short_takes_the_slow_path(sent: Layers) -> None:
    raw = bytes(sent)
    for size in range(1, len(raw)):
        assert not is_segment_of_flow(*buffer(raw[:size], rest=0)), size


def test_header_that_is_longer_than_the_packet_takes_the_slow_path() -> None:
    raw = bytes(ip4() / tcp())
    assert not is_segment_of_flow(*buffer(bytes([0x4F]) + raw[1:], rest=0))


@pytest.mark.parametrize("version", [0, 5, 7, 15])
def test_other_versions_of_ip_take_the_slow_path(version: int) -> None:
    raw = bytes([version << 4 | 5]) + bytes(ip4() / tcp())[1:]
    assert not is_segment_of_flow(*buffer(raw, rest=0))
    assert not is_datagram(*buffer(raw, rest=0))


@given(st.data())
def test_whatever_is_taken_is_a_segment_to_the_slow_path_too(data: st.DataObject) -> None:
    raw = bytearray(bytes(data.draw(st.sampled_from(SEGMENTS))))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if is_segment_of_flow(*buffer(bytes(raw))):
        read = packet.read(NO_OFFLOAD + bytes(raw))
        if isinstance(read, Packet):
            assert read.protocol == packet.TCP
            assert not read.flags & packet.SYN
            assert read.hop_limit > 1


def udp(port: int = 7) -> Layers:
    return UDP(sport=4000, dport=port) / b"data"


@pytest.mark.parametrize("sent", [ip4() / udp(), ip4(flags="DF") / udp(), ip6() / udp()], ids=repr)
def test_datagram_is_known(sent: Layers) -> None:
    assert is_datagram(*buffer(bytes(sent)))


@pytest.mark.parametrize(
    "other",
    [
        ip4() / udp(53),
        ip6() / udp(53),
        ip4() / tcp(),
        ip6() / tcp(),
        ip4(flags="MF") / udp(),
        ip4(frag=1) / udp(),
        ip4(frag=256) / udp(),
        ip4(options=b"\x01\x01\x01\x00") / udp(),
        ip6() / IPv6ExtHdrFragment(m=1) / udp(),
    ],
    ids=repr,
)
def test_query_or_fragment_or_anything_else_is_no_datagram(other: Layers) -> None:
    assert not is_datagram(*buffer(bytes(other)))


@pytest.mark.parametrize("sent", [ip4() / udp(), ip6() / udp()], ids=["IPv4", "IPv6"])
def test_datagram_is_known_by_its_ports(sent: Layers) -> None:
    raw = bytes(sent)
    ports = len(raw) - len(b"data") - 4
    assert is_datagram(*buffer(raw[:ports], rest=0))
    assert not is_datagram(*buffer(raw[: ports - 1], rest=0))
