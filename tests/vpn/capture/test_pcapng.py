"""What the writer writes, another reader reads back, and every cut between two blocks is a file."""

from __future__ import annotations

import io
import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from vpn.capture import pcapng

PACKETS = st.tuples(
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=1, max_size=200),
    st.integers(0, 1 << 16),
    st.booleans(),
    st.text(max_size=253),
    st.integers(0, 1 << 40),
)


def blocks(file: bytes) -> list[bytes]:
    """The blocks of a file, whose two lengths agree and are multiples of 4 (§3.1)."""
    found = []
    while file:
        (size,) = struct.unpack_from("<I", file, 4)
        assert size % 4 == 0
        assert struct.unpack_from("<I", file, size - 4) == (size,)
        found.append(file[:size])
        file = file[size:]
    return found


@given(st.lists(PACKETS, max_size=5))
def test_packets_come_back_as_they_were(
    packets: list[tuple[int, bytes, int, bool, str, int]],
) -> None:
    file = pcapng.header("ovpn0", 65535)
    for time_ns, data, more, out, comment, dropped in packets:
        file += pcapng.packet(
            time_ns, data, len(data) + more, is_outgoing=out, comment=comment, dropped=dropped
        )
    assert len(blocks(file)) == 2 + len(packets)
    reader = RawPcapNgReader(io.BytesIO(file))
    read = list(reader)
    assert reader.f.read() == b""
    for packet, (found, about) in zip(packets, read, strict=True):
        time_ns, data, more, out, comment, _ = packet
        assert found == data
        assert (about.tshigh << 32) + about.tslow == time_ns
        assert (about.linktype, about.tsresol) == (pcapng.LINKTYPE_RAW, 10**9)
        assert about.wirelen == len(data) + more
        assert about.ifname == b"ovpn0"
        assert about.direction == (2 if out else 1)
        expected = comment.encode(errors="replace")
        assert about.comments == ([expected] if comment else None)


def test_lost_packets_are_counted_in_the_block() -> None:
    """epb_dropcount, 8 bytes (§4.3); scapy does not read it."""
    option = struct.pack("<HHQ", 4, 8, 7)
    block = pcapng.packet(0, b"x", 1, is_outgoing=True, comment="", dropped=7)
    assert option in block
    assert option not in pcapng.packet(0, b"x", 1, is_outgoing=True, comment="", dropped=0)
