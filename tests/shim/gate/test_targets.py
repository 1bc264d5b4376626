"""Addresses of the gate, and addresses that a host is."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from shim.gate.targets import address_of, is_gateway
from shim.protocol import DEVICE4, DEVICE6, GATEWAY4, GATEWAY6


@pytest.mark.parametrize(
    ("address", "expected"),
    [(GATEWAY4, True), (GATEWAY6, True), (DEVICE4, False), (DEVICE6, False)],
)
def test_gateway_is_known_in_both_families(address: str, expected: bool) -> None:
    assert is_gateway(ip_address(address).packed) is expected


@pytest.mark.parametrize(
    ("host", "size", "expected"),
    [
        ("192.0.2.1", 4, ip_address("192.0.2.1").packed),
        ("192.0.2.1", 16, None),
        ("2001:db8::1", 16, ip_address("2001:db8::1").packed),
        ("2001:db8::1", 4, None),
        ("www.example.com", 4, None),
        ("", 16, None),
    ],
)
def test_host_is_an_address_of_the_same_family_or_none(
    host: str, size: int, expected: bytes | None
) -> None:
    assert address_of(host, bytes(size)) == expected
