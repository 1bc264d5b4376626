"""The line of a packet."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address

import pytest

from vpn.capture.headers import Headers
from vpn.capture.lines import line

TIME = datetime(2026, 1, 2, 3, 4, 5, 678)
SYN = Headers(
    ip_address("198.18.0.2"),
    ip_address("198.18.3.4"),
    6,
    0,
    source_port=4000,
    destination_port=443,
    flags=2,
)
PING6 = Headers(ip_address("2001:db8::1"), ip_address("fd00::2"), 58, 56, kind=128)


@pytest.mark.parametrize(
    ("headers", "name", "out", "expected"),
    [
        (SYN, "", True, "TCP 198.18.0.2:4000 > 198.18.3.4:443: [S], length 0"),
        (SYN, "a.example", True, "TCP 198.18.0.2:4000 > a.example:443: [S], length 0"),
        (SYN, "a.example", False, "TCP a.example:4000 > 198.18.3.4:443: [S], length 0"),
        (
            replace(SYN, flags=0x18),
            "",
            True,
            "TCP 198.18.0.2:4000 > 198.18.3.4:443: [P.], length 0",
        ),
        (replace(SYN, protocol=17), "", True, "UDP 198.18.0.2:4000 > 198.18.3.4:443: length 0"),
        (PING6, "", True, "ICMPv6 2001:db8::1 > fd00::2: type 128 code 0, length 56"),
        (
            replace(PING6, protocol=17, is_fragment=True),
            "",
            True,
            "UDP 2001:db8::1 > fd00::2: fragment, length 56",
        ),
        (replace(PING6, protocol=132), "", True, "protocol 132 2001:db8::1 > fd00::2: length 56"),
        (
            replace(PING6, protocol=6, source_port=1, destination_port=2),
            "",
            True,
            "TCP [2001:db8::1]:1 > [fd00::2]:2: [], length 56",
        ),
        (None, "", True, "not an IP packet, length 9"),
    ],
)
def test_line_of_a_packet(headers: Headers | None, name: str, out: bool, expected: str) -> None:
    assert line(TIME, headers, 9, name, out=out) == f"03:04:05.000678 {expected}"
