"""`host:port` in every form that users write, and in none that they do not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.endpoint import (
    join_host_port,
    known_hosts_name,
    parse_bare_host_port,
    parse_host_port,
    parse_port,
    split_bare_host,
    split_host,
)


@pytest.mark.parametrize(
    ("text", "host", "rest"),
    [
        ("host", "host", None),
        ("host:80", "host", "80"),
        ("host:", "host", ""),
        (":80", "", "80"),
        ("192.0.2.1:8080:80", "192.0.2.1", "8080:80"),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:80", "2001:db8::1", "80"),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", "80"),
        ("[2001:db8::1]:", "2001:db8::1", ""),
    ],
)
def test_host_ends_at_its_colon(text: str, host: str, rest: str | None) -> None:
    assert split_host(text) == (host, rest)


@pytest.mark.parametrize("text", ["[", "[::1", "[::1]80", "[::1]]:80", "[a]b"])
def test_brackets_that_do_not_match(text: str) -> None:
    for read in (split_host, split_bare_host, parse_host_port, parse_bare_host_port):
        with pytest.raises(ValueError, match="brackets do not match"):
            read(text)


def test_address_without_brackets_is_a_host_where_it_may_stand_bare() -> None:
    assert split_bare_host("2001:db8::1") == ("2001:db8::1", None)
    assert parse_bare_host_port("2001:db8::1") == ("2001:db8::1", None)


def test_address_without_brackets_elsewhere() -> None:
    with pytest.raises(ValueError, match="needs brackets"):
        parse_host_port("2001:db8::1")


@pytest.mark.parametrize("read", [parse_host_port, parse_bare_host_port])
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host", "host", None),
        ("host:1", "host", 1),
        ("host:65535", "host", 65535),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", None),
    ],
)
def test_port_is_read(read: object, text: str, host: str, port: int | None) -> None:
    assert callable(read)
    assert read(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "+1", " 1", "1_0", "http", "\u0661", "000080", "9" * 5000]
)
def test_no_port(text: str) -> None:
    for read in (
        parse_port,
        lambda text: parse_host_port(f"host:{text}"),
        lambda text: parse_bare_host_port(f"[::1]:{text}"),
    ):
        with pytest.raises(ValueError, match="is not a port"):
            read(text)


@given(
    st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.]*", fullmatch=True)),
    st.integers(1, 65535),
)
def test_what_is_written_is_read_again(host: str, port: int) -> None:
    assert parse_host_port(join_host_port(host, port)) == (host, port)
    assert parse_bare_host_port(join_host_port(host, port)) == (host, port)
    assert parse_bare_host_port(host) == (host, None)


@given(st.text(alphabet="[]:%a1.", max_size=12))
def test_any_text_is_read_or_a_value_error(text: str) -> None:
    for read in (split_host, split_bare_host, parse_host_port, parse_bare_host_port):
        with suppress(ValueError):
            read(text)


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [("host", 22, "host"), ("host", 4422, "[host]:4422"), ("::1", 22, "::1")],
)
def test_name_in_known_hosts(host: str, port: int, name: str) -> None:
    assert known_hosts_name(host, port) == name
