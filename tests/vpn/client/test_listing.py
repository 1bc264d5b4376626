"""What is shown of flows, and how a list goes through small packets."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vpn.client import listing
from vpn.client.listing import END, PER_PACKET
from vpn.client.questions import MAX_PACKET
from vpn.control.messages import FlowStatus


def flow(number: int = 1, destination: str = "www.example.com") -> FlowStatus:
    return FlowStatus(
        id=f"t{number}",
        protocol="tcp",
        source="198.18.0.2",
        source_port=40000,
        destination=destination,
        destination_port=443,
        state="open",
        bytes_up=1,
        bytes_down=2,
        age_s=3,
        idle_s=0,
        exit="server",
    )


@given(st.integers(0, 3 * PER_PACKET))
def test_list_comes_back_from_its_packets(count: int) -> None:
    flows = [flow(number) for number in range(count)]
    *packets, end = listing.packets(flows)
    assert end == END
    assert [one for packet in packets for one in listing.unpack(packet)] == flows


def test_packet_of_the_longest_flows_has_room() -> None:
    largest = msgspec.structs.replace(
        flow(1 << 63, "\x00" * 253),
        source="2001:db8:1111:2222:3333:4444:5555:6666",
        bytes_up=1 << 63,
        bytes_down=1 << 63,
        age_s=1 << 40,
        idle_s=1 << 40,
        state="half-closed-remote",
        exit="loopback",
    )
    assert all(len(packet) <= MAX_PACKET for packet in listing.packets([largest] * PER_PACKET))
    (packet, _) = listing.packets([msgspec.structs.replace(largest, destination="a" * 253)])
    assert listing.unpack(packet)[0].id == largest.id


@given(st.binary(max_size=200) | st.just(b'[{"id":"t1"}]'))
def test_packet_that_is_no_list_is_an_error_and_nothing_else(packet: bytes) -> None:
    try:
        assert listing.unpack(packet) == ()
    except msgspec.MsgspecError:
        return
