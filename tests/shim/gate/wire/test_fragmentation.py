"""What goes to the device is the packet, or fragments that a host puts together to it again."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
    defragment6,
)

from shim.gate.wire import packet, udp
from shim.gate.wire.fragmentation import KNOWN_S, MAX_PATHS, MIN_MTU, PathMtuCache
from shim.gate.wire.packet import Packet
from shim.gate.wire.tun import NO_OFFLOAD, VNET_HEADER_BYTES
from shim.protocol import DEVICE4, DEVICE6

FAR, CONTAINER = "2001:db8:3::2", "2001:db8:9::2"


def framed(size: int, source: str = FAR, destination: str = CONTAINER) -> bytes:
    """A UDP packet as the gate makes it, its checksum left to the kernel."""
    ends = ip_address(source).packed, ip_address(destination).packed
    return udp.framed(*ends, (7, 4000), bytes(range(256)) * (size // 256) + bytes(size % 256), 1)


def too_big(destination: str = CONTAINER, *, about: bytes | None = None, kind: int = 2) -> Packet:
    """What a router of this machine says of a packet to an address."""
    raw = bytes(IPv6(src="fd6f:7670:6e00::1", dst=FAR) / ICMPv6PacketTooBig(mtu=1500))
    quoted = framed(9000, destination=destination)[VNET_HEADER_BYTES:][:1200]
    raw = raw[:48] + (quoted if about is None else about)
    read = packet.read(NO_OFFLOAD + _with_length(raw[:40] + bytes([kind]) + raw[41:]))
    assert isinstance(read, Packet)
    return read


def _with_length(raw: bytes) -> bytes:
    return raw[:4] + (len(raw) - 40).to_bytes(2) + raw[6:]


def whole(pieces: list[bytes]) -> IPv6:
    """What the receiver has, from an independent hand."""
    return defragment6([IPv6(piece[VNET_HEADER_BYTES:]) for piece in pieces])


@pytest.fixture
def narrow() -> PathMtuCache:
    """It has heard that large packets do not reach the container."""
    narrow = PathMtuCache()
    assert narrow.on_icmp(too_big(), 0.0)
    return narrow


@pytest.mark.parametrize("size", [1233, 1500, 9000, 65507, 65527])
def test_large_one_is_cut_and_is_the_same_again(narrow: PathMtuCache, size: int) -> None:
    pieces = narrow.cut(framed(size))
    assert all(len(one) <= VNET_HEADER_BYTES + MIN_MTU for one in pieces)
    assert all(one.startswith(NO_OFFLOAD) for one in pieces)
    got = whole(pieces)
    assert (got.src, got.dst, got[UDP].sport, got[UDP].dport) == (FAR, CONTAINER, 7, 4000)
    assert bytes(got[UDP].payload) == framed(size)[VNET_HEADER_BYTES + 48 :]
    sum_of_ours = got[UDP].chksum
    del got[UDP].chksum
    assert IPv6(bytes(got))[UDP].chksum == sum_of_ours


def test_fragments_of_two_packets_are_told_apart(narrow: PathMtuCache) -> None:
    def idents() -> set[int]:
        pieces = narrow.cut(framed(9000))
        return {IPv6(one[VNET_HEADER_BYTES:])[IPv6ExtHdrFragment].id for one in pieces}

    first, second = idents(), idents()
    assert len(first) == len(second) == 1
    assert first != second


def test_checksum_that_is_there_already_is_kept(narrow: PathMtuCache) -> None:
    ends = ip_address(FAR).packed, ip_address(CONTAINER).packed
    raw = packet.echo_reply(*ends, 7, 1, bytes(3000))
    got = whole(narrow.cut(NO_OFFLOAD + raw))
    assert bytes(got[ICMPv6EchoReply]) == raw[40:]


@pytest.mark.parametrize(
    "one",
    [
        framed(1232),
        framed(9000, destination=DEVICE6),
        framed(9000, source="203.0.113.2", destination=DEVICE4),
    ],
    ids=["fits", "another", "IPv4"],
)
def test_other_is_left_as_it_is(narrow: PathMtuCache, one: bytes) -> None:
    assert narrow.cut(one) == [one]


@pytest.mark.parametrize(
    "message", [too_big(about=bytes(39)), too_big(kind=1), too_big(kind=3)], ids=str
)
def test_message_that_says_something_else_is_not_taken_note_of(message: Packet) -> None:
    narrow = PathMtuCache()
    assert not narrow.on_icmp(message, 0.0)
    assert narrow.cut(framed(9000)) == [framed(9000)]


def test_it_is_known_for_a_while_and_for_so_many() -> None:
    narrow = PathMtuCache()
    narrow.on_icmp(too_big(), 0.0)
    for number in range(MAX_PATHS - 1):
        narrow.on_icmp(too_big(f"2001:db8::{number:x}"), 1.0)
    assert len(narrow.cut(framed(9000))) > 1
    narrow.on_icmp(too_big("2001:db8:1::"), 2.0)
    assert len(narrow.cut(framed(9000))) == 1
    narrow.expire(2.0 + KNOWN_S)
    assert len(narrow.cut(framed(9000, destination="2001:db8:1::"))) == 1
