"""Any bytes are read, and well-formed packets as scapy has made them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Raw

from vpn.capture import headers
from vpn.capture.headers import Headers

V4 = IP(src="192.0.2.1", dst="192.0.2.2")
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
PORTS = {"sport": 4000, "dport": 53}
DATA = Raw(b"12345")


def read(packet: Any) -> Headers:
    found = headers.read(bytes(packet), len(bytes(packet)))
    assert found is not None
    return found


@pytest.mark.parametrize("ip", [V4, V6, V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()])
def test_ends_ports_flags_and_length(ip: Any) -> None:
    found = read(ip / TCP(**PORTS, flags="SA", options=[("MSS", 1460)]) / DATA)
    assert (str(found.source), str(found.destination)) in (
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2"),
    )
    assert (found.protocol, found.source_port, found.destination_port) == (6, 4000, 53)
    assert (found.flags, found.length, found.is_fragment) == (0x12, 5, False)
    found = read(ip / UDP(**PORTS) / DATA)
    assert (found.protocol, found.source_port, found.destination_port) == (17, 4000, 53)
    assert found.length == 5


def test_kind_and_code_of_icmp() -> None:
    found = read(V4 / ICMP(type=3, code=13) / DATA)
    assert (found.protocol, found.kind, found.code, found.length) == (1, 3, 13, 5)
    found = read(V6 / ICMPv6EchoRequest() / DATA)
    assert (found.protocol, found.kind, found.code) == (58, 128, 0)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (IP(flags="MF") / UDP(**PORTS) / DATA, IP(frag=2, proto=17) / DATA),
        (
            IPv6() / IPv6ExtHdrFragment(m=1) / UDP(**PORTS) / DATA,
            IPv6() / IPv6ExtHdrFragment(offset=2, nh=17) / DATA,
        ),
    ],
)
def test_fragments_have_ports_in_the_first_only(first: Any, later: Any) -> None:
    assert read(first).is_fragment
    assert read(first).destination_port == 53
    assert read(later).is_fragment
    assert (read(later).protocol, read(later).source_port) == (17, 0)


def test_packet_that_was_cut_off_keeps_its_length() -> None:
    whole = bytes(V4 / UDP(**PORTS) / Raw(bytes(1000)))
    found = headers.read(whole[:28], len(whole))
    assert found is not None
    assert found.length == 1000


@given(st.binary(max_size=120), st.integers(0, 1 << 16))
def test_any_bytes_are_read(packet: bytes, length: int) -> None:
    found = headers.read(packet, length)
    assert found is None or found.length >= 0


@given(st.sampled_from([4, 6]), st.binary(min_size=40, max_size=120))
def test_any_packet_of_ip_has_its_ends(version: int, rest: bytes) -> None:
    packet = bytes([version << 4 | 5]) + rest
    found = headers.read(packet, len(packet))
    assert found is not None
    ends = (packet[12:16], packet[16:20]) if version == 4 else (packet[8:24], packet[24:40])
    assert (found.source, found.destination) == tuple(map(ip_address, ends))
