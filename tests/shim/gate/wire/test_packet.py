"""Headers in, answers out; scapy is the other opinion on both."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from shim.gate.wire import packet
from shim.gate.wire.packet import Packet, Unreachable
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.gate import DropReason

APP4, FAR4 = "198.18.0.2", "203.0.113.7"
ROUTER4, ROUTER6 = "203.0.113.9", "2001:db8:9::9"
APP6, FAR6 = "fd6f:7670:6e00::2", "2001:db8:3::7"
NO_HOSTS4 = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")
NO_HOSTS6 = ("::", "::1", "ff02::1")
SENDER4, SENDER6 = ip_address(GATEWAY4).packed, ip_address(GATEWAY6).packed


def framed(layers: ScapyPacket) -> bytes:
    return NO_OFFLOAD + bytes(layers)


def read(layers: ScapyPacket) -> Packet:
    result = packet.read(framed(layers))
    assert isinstance(result, Packet)
    return result


def syn4(**fields: object) -> ScapyPacket:
    return IP(src=APP4, dst=FAR4) / TCP(sport=40000, dport=443, flags="S", seq=7, **fields)


def syn6(**fields: object) -> ScapyPacket:
    return IPv6(src=APP6, dst=FAR6) / TCP(sport=40000, dport=443, flags="S", seq=7, **fields)


@pytest.mark.parametrize("syn", [syn4(), syn6()], ids=["IPv4", "IPv6"])
def test_syn_is_read(syn: ScapyPacket) -> None:
    got = read(syn)
    assert (got.protocol, got.flags) == (packet.TCP, packet.SYN)
    assert (got.source_port, got.destination_port) == (40000, 443)
    assert got.key == packet.flow_key(got.source, got.destination, 40000, 443)
    assert len(got.key) == (12 if len(got.source) == 4 else 36)


def test_extension_headers_are_stepped_over() -> None:
    got = read(IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrDestOpt() / TCP(dport=443, flags="S"))
    assert (got.protocol, got.destination_port) == (packet.TCP, 443)


def test_offload_header_stays_with_the_packet() -> None:
    offload = bytes(range(1, 11))
    got = packet.read(offload + bytes(syn4()))
    assert isinstance(got, Packet)
    assert got.offload + got.raw == offload + bytes(syn4())


def test_trailing_bytes_are_cut_off() -> None:
    got = packet.read(framed(syn4()) + b"trailer")
    assert isinstance(got, Packet)
    assert got.raw == bytes(syn4())


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (b"", "short"),
        (b"\x45" + bytes(10), "short"),
        (b"\x60" + bytes(10), "short"),
        (b"\x10" + bytes(40), "version"),
        (bytes(IP(src=APP4, dst=FAR4, ihl=4) / TCP()), "length"),
        (bytes(IP(src=APP4, dst=FAR4, len=1000) / TCP()), "length"),
        (bytes(IPv6(src=APP6, dst=FAR6, plen=1000) / TCP()), "length"),
        (bytes(IP(src=APP4, dst=FAR4, flags="MF") / TCP()), "fragment"),
        (bytes(IP(src=APP4, dst=FAR4, frag=8) / TCP()), "fragment"),
        (bytes(IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrFragment() / TCP()), "fragment"),
        (bytes(IPv6(src=APP6, dst=FAR6, nh=60)) + b"", "short"),
        (bytes(IP(src=FAR4, dst=FAR4) / TCP(dport=80)), "land"),
        (bytes(IP(src=APP4, dst=FAR4, chksum=1) / TCP(dport=80)), "checksum"),
        *((bytes(IP(src=one, dst=FAR4) / TCP(dport=80)), "source") for one in NO_HOSTS4),
        *((bytes(IPv6(src=one, dst=FAR6) / TCP(dport=80)), "source") for one in NO_HOSTS6),
        (bytes(IPv6(src=FAR6, dst=FAR6) / TCP(dport=80)), "land"),
        (bytes(IP(src=APP4, dst=FAR4, proto=6) / Raw(bytes(19))), "short"),
        (bytes(IP(src=APP4, dst=FAR4) / TCP(dport=80, dataofs=4)), "length"),
        (bytes(IP(src=APP4, dst=FAR4) / TCP(dport=80, dataofs=15)), "length"),
        (bytes(IP(src=APP4, dst=FAR4) / TCP(dport=0)), "port"),
        (bytes(IP(src=APP4, dst=FAR4) / UDP(dport=53, len=7)), "length"),
        (bytes(IP(src=APP4, dst=FAR4) / UDP(dport=53, len=99)), "length"),
        (bytes(IP(src=APP4, dst=FAR4, proto=1) / Raw(bytes(7))), "short"),
    ],
)
def test_malformed_packet_has_a_reason(layers: bytes, reason: str) -> None:
    assert packet.read(NO_OFFLOAD + layers) == reason


def test_endless_extension_headers_end() -> None:
    chain = struct.pack("!BB6x", 60, 0) * 100
    raw = bytes(IPv6(src=APP6, dst=FAR6, nh=60) / Raw(chain))
    assert packet.read(NO_OFFLOAD + raw) == "extensions"


@pytest.mark.parametrize("layers", [syn4(), syn6(), syn4() / b"odd"])
def test_segment_that_was_damaged_is_known(layers: ScapyPacket) -> None:
    assert packet.has_valid_checksum(read(layers))
    layers[TCP].chksum = 1
    assert not packet.has_valid_checksum(read(layers))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_packet_or_a_reason(raw: bytes) -> None:
    assert isinstance(packet.read(NO_OFFLOAD + raw), Packet | DropReason)


@given(st.sampled_from([0x45, 0x46, 0x60]), st.binary(min_size=39, max_size=120))
def test_any_bytes_behind_a_version_are_a_packet_or_a_reason(first: int, rest: bytes) -> None:
    raw = bytes([first]) + rest
    if first < 0x60:  # else the sum of the header would hide what comes after it
        size = (first & 0x0F) * 4
        total = packet.checksum(raw[:10] + bytes(2) + raw[12:size])
        raw = raw[:10] + total.to_bytes(2) + raw[12:]
    assert isinstance(packet.read(NO_OFFLOAD + raw), Packet | DropReason)


def same(sent: bytes, expected: ScapyPacket) -> None:
    """Scapy fills in lengths and checksums: equal bytes are right bytes."""
    assert sent == bytes(expected)


def test_refused_syn_is_answered_by_a_reset() -> None:
    same(
        packet.reset(read(syn4())),
        IP(src=FAR4, dst=APP4, id=0)
        / TCP(sport=443, dport=40000, flags="RA", seq=0, ack=8, window=0),
    )
    same(
        packet.reset(read(syn6())),
        IPv6(src=FAR6, dst=APP6) / TCP(sport=443, dport=40000, flags="RA", seq=0, ack=8, window=0),
    )


def test_reset_acknowledges_the_data_of_a_syn_and_wraps() -> None:
    syn = IP(src=APP4, dst=FAR4) / TCP(dport=443, flags="S", seq=0xFFFFFFFF) / Raw(b"early")
    assert IP(packet.reset(read(syn)))[TCP].ack == 5


@pytest.mark.parametrize("code", [0, 1, 2, 3, 13])
def test_icmp_error_quotes_the_packet(code: int) -> None:
    syn = syn4()
    same(
        packet.unreachable(read(syn), Unreachable(code), SENDER4),
        IP(src=GATEWAY4, dst=APP4, id=0) / ICMP(type=3, code=code) / Raw(bytes(syn)),
    )


@pytest.mark.parametrize(
    ("code", "code6"),
    [
        (Unreachable.NET, 0),
        (Unreachable.HOST, 3),
        (Unreachable.PORT, 4),
        (Unreachable.ADMINISTRATIVELY_PROHIBITED, 1),
    ],
)
def test_icmpv6_error_quotes_the_packet(code: Unreachable, code6: int) -> None:
    syn = syn6()
    same(
        packet.unreachable(read(syn), code, SENDER6),
        IPv6(src=GATEWAY6, dst=APP6, hlim=64) / ICMPv6DestUnreach(code=code6) / Raw(bytes(syn)),
    )


def test_unknown_protocol_of_ipv6_is_a_parameter_problem() -> None:
    odd = IPv6(src=APP6, dst=FAR6, nh=132) / Raw(b"sctp")
    same(
        packet.unreachable(read(odd), Unreachable.PROTOCOL, SENDER6),
        IPv6(src=GATEWAY6, dst=APP6, hlim=64) / ICMPv6ParamProblem(code=1, ptr=6) / Raw(bytes(odd)),
    )


def test_icmp_error_is_no_larger_than_its_rfc_says() -> None:
    big4 = IP(src=APP4, dst=FAR4) / UDP(dport=9) / Raw(bytes(3000))
    big6 = IPv6(src=APP6, dst=FAR6) / UDP(dport=9) / Raw(bytes(3000))
    assert len(packet.unreachable(read(big4), Unreachable.PORT, SENDER4)) == 576
    assert len(packet.unreachable(read(big6), Unreachable.PORT, SENDER6)) == 1280


@pytest.mark.parametrize("hops", [1, 2, 64])
def test_hop_limit_is_that_of_the_family(hops: int) -> None:
    assert read(IP(src=APP4, dst=FAR4, ttl=hops) / UDP(dport=9)).hop_limit == hops
    assert read(IPv6(src=APP6, dst=FAR6, hlim=hops) / UDP(dport=9)).hop_limit == hops


def test_time_exceeded_is_said_by_the_gateway_of_the_family() -> None:
    syn = syn4()
    same(
        packet.time_exceeded(read(syn), SENDER4),
        IP(src=GATEWAY4, dst=APP4, id=0) / ICMP(type=11, code=0) / Raw(bytes(syn)),
    )
    syn = syn6()
    same(
        packet.time_exceeded(read(syn), SENDER6),
        IPv6(src=GATEWAY6, dst=APP6, hlim=64) / ICMPv6TimeExceeded() / Raw(bytes(syn)),
    )


def test_icmp_error_of_a_router_carries_its_address_and_more() -> None:
    big4 = IP(src=APP4, dst=FAR4) / UDP(dport=9) / Raw(b"big")
    same(
        packet.icmp_error(bytes(big4), 3, 4, 1280, ip_address(ROUTER4).packed),
        IP(src=ROUTER4, dst=APP4, id=0) / ICMP(type=3, code=4, nexthopmtu=1280) / Raw(bytes(big4)),
    )
    big6 = IPv6(src=APP6, dst=FAR6) / UDP(dport=9) / Raw(b"big")
    same(
        packet.icmp_error(bytes(big6), 2, 0, 1280, ip_address(ROUTER6).packed),
        IPv6(src=ROUTER6, dst=APP6, hlim=64) / ICMPv6PacketTooBig(mtu=1280) / Raw(bytes(big6)),
    )


@pytest.mark.parametrize(
    ("layers", "is_request", "is_answer"),
    [
        (IP(src=APP4, dst=FAR4) / ICMP(type=8), True, False),
        (IP(src=APP4, dst=FAR4) / ICMP(type=3), False, True),
        (IP(src=APP4, dst=FAR4) / ICMP(type=13), False, True),
        (IP(src=APP4, dst=FAR4, proto=58) / Raw(b"\x80" + bytes(7)), False, True),
        (IPv6(src=APP6, dst=FAR6) / ICMPv6EchoRequest(), True, False),
        (IPv6(src=APP6, dst=FAR6) / ICMPv6DestUnreach(), False, True),
        (IPv6(src=APP6, dst=FAR6, nh=1) / Raw(b"\x08" + bytes(7)), False, True),
        (IPv6(src=APP6, dst=FAR6, nh=59), False, False),
        (syn4(), False, False),
    ],
)
def test_echo_request_is_told_from_other_icmp(
    layers: ScapyPacket, is_request: bool, is_answer: bool
) -> None:
    got = read(layers)
    assert (got.is_echo_request, got.is_icmp_answer) == (is_request, is_answer)


@given(st.binary(max_size=300))
def test_datagram_is_what_scapy_builds(payload: bytes) -> None:
    same(
        packet.datagram(ip_address(FAR4).packed, ip_address(APP4).packed, (53, 999), payload),
        IP(src=FAR4, dst=APP4, id=0) / UDP(sport=53, dport=999) / Raw(payload),
    )
    same(
        packet.datagram(ip_address(FAR6).packed, ip_address(APP6).packed, (53, 999), payload),
        IPv6(src=FAR6, dst=APP6) / UDP(sport=53, dport=999) / Raw(payload),
    )


@given(st.binary(max_size=400))
def test_checksum_equals_the_loop_of_the_rfc(data: bytes) -> None:
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for index in range(0, len(padded), 2):
        total += int.from_bytes(padded[index : index + 2])
        total = (total & 0xFFFF) + (total >> 16)
    assert packet.checksum(data) == ~total & 0xFFFF


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "239.1.2.3"])
def test_multicast_and_broadcast_are_not_to_one_host(address: str) -> None:
    assert not read(IP(src=APP4, dst=address) / UDP(dport=9)).is_to_one_host
    assert not read(IPv6(src=APP6, dst="ff02::1") / UDP(dport=9)).is_to_one_host
    assert read(syn4()).is_to_one_host
