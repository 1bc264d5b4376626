"""Fragments in any order become the packet that they were, or nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw

from shim.gate.wire import packet
from shim.gate.wire.reassembly import OVERHEAD_BYTES, TIMEOUT_S, Fragments
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol.gate import DropReason

Make = Callable[..., tuple[bytes, ...]]

APP4, FAR4 = "198.18.0.2", "203.0.113.7"
APP6, FAR6 = "fd6f:7670:6e00::2", "2001:db8::7"


@cache
def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@cache
def v4(size: int, ident: int = 7, room: int = 1480) -> tuple[bytes, ...]:
    whole = IP(src=APP4, dst=FAR4, id=ident) / UDP(sport=4000, dport=5000) / Raw(payload(size))
    return tuple(bytes(one) for one in fragment(whole, room))


@cache
def v6(size: int, ident: int = 7, room: int = 1500) -> tuple[bytes, ...]:
    whole = IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrFragment(id=ident)
    whole /= UDP(sport=4000, dport=5000) / Raw(payload(size))
    return tuple(bytes(one) for one in fragment6(whole, room))


def add_all(fragments: Fragments, packets: Iterable[bytes], now: float = 0.0) -> list[bytes]:
    return [whole for one in packets if isinstance(whole := fragments.add(one, now), bytes)]


def datagram_of(raw: bytes) -> bytes:
    read = packet.read(NO_OFFLOAD + raw)
    assert isinstance(read, packet.Packet)
    assert read.protocol == packet.UDP
    return read.datagram


def test_datagram_that_is_too_long_with_the_header_of_its_first_fragment_is_none() -> None:
    """Each of the two had room for itself, with a shorter one."""
    end4, end6 = 65535 - 20, 65535
    options = IP(src=APP4, dst=FAR4, id=7, proto=17, flags="MF", options=b"\1" * 40)
    first4 = options / Raw(payload(8))
    rest4 = IP(src=APP4, dst=FAR4, id=7, proto=17, frag=1) / Raw(payload(end4 - 8))
    first6 = IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=7, m=1, nh=17)
    rest6 = IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrFragment(id=7, offset=1, nh=17)
    for first, rest in (
        (first4, rest4),
        (first6 / Raw(payload(8)), rest6 / Raw(payload(end6 - 8))),
    ):
        fragments = Fragments()
        assert fragments.add(bytes(first), 0.0) is None
        assert fragments.add(bytes(rest), 0.0) is DropReason.FRAGMENT
        assert add_all(fragments, v4(2000)) != []


@pytest.mark.parametrize("make", [v4, v6])
@pytest.mark.parametrize("size", [1, 2000, 9000, 65507])
@given(order=st.randoms(use_true_random=False))
def test_fragments_in_any_order_are_the_datagram(
    make: Make, size: int, order: random.Random
) -> None:
    packets = list(make(size))
    order.shuffle(packets)
    if len(packets) == 1 and make is v4:
        return  # not a fragment
    fragments = Fragments()
    (whole,) = add_all(fragments, packets)
    assert datagram_of(whole) == payload(size)
    assert not len(fragments)


def test_header_that_comes_out_is_sound() -> None:
    (whole,) = add_all(Fragments(), v4(3000))
    read = IP(whole)
    checked = IP(whole)
    del checked.chksum
    assert read.chksum == IP(bytes(checked)).chksum
    assert (read.flags, read.frag, read.len) == (0, 0, len(whole))


def test_extension_headers_before_the_fragment_stay() -> None:
    before = IPv6(src=APP6, dst=FAR6) / IPv6ExtHdrDestOpt()
    data = bytes(UDP(sport=4000, dport=5000, len=8 + 24) / Raw(payload(24)))
    first = before / IPv6ExtHdrFragment(id=1, nh=17, offset=0, m=1) / Raw(data[:16])
    last = before / IPv6ExtHdrFragment(id=1, nh=17, offset=2, m=0) / Raw(data[16:])
    (whole,) = add_all(Fragments(), [bytes(first), bytes(last)])
    assert datagram_of(whole) == payload(24)


def test_datagrams_at_the_same_time_are_not_mixed() -> None:
    mixed = [one for pair in zip(v4(4000, 1), v4(4000, 2), strict=True) for one in pair]
    assert [datagram_of(one) for one in add_all(Fragments(), mixed)] == [payload(4000)] * 2


def test_duplicate_is_ignored() -> None:
    packets = v4(4000)
    (whole,) = add_all(Fragments(), [packets[0], packets[0], *packets[1:]])
    assert datagram_of(whole) == payload(4000)


@pytest.mark.parametrize("make", [v4, v6])
def test_overlap_spoils_the_datagram_for_good(make: Make) -> None:
    packets = make(4000)
    other = bytearray(packets[1])
    other[-1] ^= 1
    fragments = Fragments()
    made = [fragments.add(one, 0.0) for one in (packets[0], packets[1], bytes(other), *packets)]
    assert made == [None, None, *[DropReason.FRAGMENT] * (1 + len(packets))]


@pytest.mark.parametrize("frag", [0, 1, 2])
def test_fragment_that_reaches_into_another_spoils_the_datagram(frag: int) -> None:
    def part(at: int, size: int, more: bool) -> bytes:
        flags = "MF" if more else 0
        return bytes(
            IP(src=APP4, dst=FAR4, id=1, proto=17, flags=flags, frag=at) / Raw(bytes(size))
        )

    packets = [part(1, 16, True), part(frag, 24, True), part(0, 8, True), part(3, 8, False)]
    assert add_all(Fragments(), packets) == []


def test_second_end_spoils_the_datagram() -> None:
    packets = v4(4000)
    longer = IP(packets[-1])
    longer.frag += 100
    assert add_all(Fragments(), [packets[-1], bytes(longer), *packets[:-1]]) == []


def test_datagram_larger_than_any_is_none() -> None:
    beyond = IP(src=APP4, dst=FAR4, proto=17, flags=0, frag=0x1FFF) / Raw(bytes(1000))
    fragments = Fragments()
    assert fragments.add(bytes(beyond), 0.0) is DropReason.FRAGMENT
    assert not len(fragments)


def test_datagram_that_is_not_complete_in_time_is_forgotten() -> None:
    packets = v4(4000)
    fragments = Fragments()
    add_all(fragments, packets[:-1])
    assert fragments.expire(TIMEOUT_S) == 0
    assert len(fragments) == 1
    assert fragments.expire(TIMEOUT_S + 0.1) == len(packets) - 1
    assert not len(fragments)
    assert fragments.add(packets[-1], TIMEOUT_S + 0.2) is None


def test_flood_of_fragments_is_bounded_and_the_newest_still_arrives() -> None:
    fragments = Fragments(max_bytes=64 << 10)
    told = {fragments.add(v4(1400, ident, 800)[0], 0.0) for ident in range(1000)}
    assert told == {None, DropReason.FRAGMENT_LIMIT}
    assert len(fragments) <= (64 << 10) // OVERHEAD_BYTES
    assert len(add_all(fragments, v4(4000, 9999))) == 1


def test_flood_of_spoiled_datagrams_is_bounded() -> None:
    fragments = Fragments(max_bytes=64 << 10)
    for ident in range(1000):
        first = v4(1400, ident, 800)[0]
        add_all(fragments, [first, first[:-1] + bytes([first[-1] ^ 1])])
    assert len(fragments) <= (64 << 10) // OVERHEAD_BYTES


def test_fragment_of_tcp_is_not_kept() -> None:
    fragments = Fragments()
    whole = IP(src=APP4, dst=FAR4) / TCP(sport=4000, dport=80) / Raw(bytes(3000))
    made = {fragments.add(bytes(one), 0.0) for one in fragment(whole, 1000)}
    assert made == {DropReason.FRAGMENT}
    assert not len(fragments)


def test_echo_request_is_put_together_too() -> None:
    whole = IP(src=APP4, dst=FAR4) / ICMP(id=1, seq=2) / Raw(payload(4000))
    (made,) = add_all(Fragments(), [bytes(one) for one in fragment(whole, 1000)])
    assert made[20:] == bytes(whole)[20:]


@given(st.binary(max_size=120), st.sampled_from([b"\x45", b"\x60", b"\x4f", b""]))
def test_random_bytes_are_taken_in_silence(data: bytes, first: bytes) -> None:
    fragments = Fragments(max_bytes=4096)
    made = fragments.add(first + data, 0.0)
    if isinstance(made, bytes):
        assert isinstance(packet.read(NO_OFFLOAD + made), packet.Packet | DropReason)
