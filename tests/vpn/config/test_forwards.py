"""Ports and names that one side makes known to the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.protocol import GATEWAY6
from vpn.config.forwards import Publication, parse_destination, parse_host, parse_publication
from vpn.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", Publication("127.0.0.1", 8080, 8080)),
        ("8080:80", Publication("127.0.0.1", 8080, 80)),
        ("192.0.2.1:8080", Publication("192.0.2.1", 8080, 8080)),
        ("192.0.2.1:8080:80", Publication("192.0.2.1", 8080, 80)),
        ("[::1]:8080:80", Publication("::1", 8080, 80)),
    ],
)
def test_publication_is_read(text: str, expected: Publication) -> None:
    assert parse_publication(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "0", "65536", "1:2:3", "host:80", "[::1]", "[x]:80", "::1:80", "80:", ":80"]
)
def test_mistake_in_a_publication_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--publish"):
        parse_publication(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db.example=10.0.0.5", ("db.example", ("10.0.0.5", 0))),
        ("DB.example.=10.0.0.5:5432", ("db.example", ("10.0.0.5", 5432))),
        ("db.example=2001:db8::5", ("db.example", ("2001:db8::5", 0))),
        ("db.example=[2001:db8::5]:5432", ("db.example", ("2001:db8::5", 5432))),
        ("db.example=[2001:db8::5]", ("db.example", ("2001:db8::5", 0))),
    ],
)
def test_host_is_read(text: str, expected: tuple[str, tuple[str, int]]) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize("text", ["FD6F:7670:6E00::1", "[fd6f:7670:6e00:0:0:0:0:1]:0080"])
def test_host_is_the_gate_however_its_address_is_written(text: str) -> None:
    _, (address, _) = parse_host(f"me.example={text}")
    assert address == GATEWAY6


@pytest.mark.parametrize(
    "text", ["", "db.example", "=10.0.0.5", "db.example=x", "db.example=10.0.0.5:x", "a b=10.0.0.5"]
)
def test_mistake_in_a_host_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--host"):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www.Example.com.", ("www.example.com", 0)),
        ("www.example.com:443", ("www.example.com", 443)),
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:53", ("192.0.2.1", 53)),
        ("2001:db8:0::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_destination_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "a b", "www.example:", "www.example:0", "www.example:65536", "[::1", "[::1]8"),
        *("[::1]:", "192.0.2.0/24", "1.2.3", "http://www.example", "a..b", "fe80::1%eth0"),
    ],
)
def test_mistake_in_a_destination_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        parse_destination(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_a_usage_error(text: str) -> None:
    for parse in (parse_publication, parse_host, parse_destination):
        try:
            parse(text)
        except UsageError:
            continue
