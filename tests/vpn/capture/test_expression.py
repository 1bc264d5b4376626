"""Which packets a filter takes, and which words it does not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.capture import expression
from vpn.capture.headers import Headers
from vpn.errors import UsageError

NAME = "www.example.com"


def headers(protocol: int = 6, far: str = "198.18.3.4", port: int = 443) -> Headers:
    return Headers(
        ip_address("198.18.0.2"),
        ip_address(far),
        protocol,
        0,
        source_port=40000,
        destination_port=port,
    )


WEB = headers()
DNS = headers(17, "192.0.2.53", 53)
PING = headers(1, "192.0.2.53", 0)
PING6 = headers(58, "2001:db8::1", 0)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", [WEB, DNS, PING, PING6]),
        ("tcp", [WEB]),
        ("udp", [DNS]),
        ("icmp", [PING, PING6]),
        ("dns", [DNS]),
        ("port 443", [WEB]),
        ("port 40000", [WEB, DNS, PING, PING6]),
        ("host 192.0.2.53", [DNS, PING]),
        ("host 192.0.2.0/24", [DNS, PING]),
        ("host 192.0.2.1/24", [DNS, PING]),
        ("host 2001:db8::/32", [PING6]),
        ("host 198.18.0.2", [WEB, DNS, PING, PING6]),
        ("udp and host 192.0.2.53", [DNS]),
        ("  tcp   and  port 443 and host 198.18.0.0/15 ", [WEB]),
        ("tcp and udp", []),
    ],
)
def test_filter_takes(text: str, taken: list[Headers]) -> None:
    wanted = expression.parse(text)
    assert [one for one in (WEB, DNS, PING, PING6) if wanted.matches(one, "")] == taken


@pytest.mark.parametrize("text", ["host www.example.com", "host WWW.example.COM.", f"host {NAME}"])
def test_name_is_that_of_the_far_end(text: str) -> None:
    wanted = expression.parse(text)
    assert wanted.matches(WEB, NAME)
    assert not wanted.matches(WEB, "example.com")
    assert not wanted.matches(WEB, "")


def test_what_nobody_can_read_is_taken_by_no_filter_but_the_empty_one() -> None:
    assert expression.parse("").matches(None, "")
    assert not expression.parse("tcp").matches(None, "")


@pytest.mark.parametrize(
    "text",
    [
        "tpc",
        "tcp udp",
        "tcp and",
        "and tcp",
        "tcp and and udp",
        "host",
        "host a b",
        "host a!b",
        "host 10.0.0.0/33",
        "port",
        "port 0",
        "port 65536",
        "port 99999999999999",
        "port ²",
        "port http",
        "not tcp",
        "tcp or udp",
    ],
)
def test_other_words_are_one_line_that_names_those_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="write tcp, udp, icmp, dns, 'host NAME'") as error:
        expression.parse(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    try:
        expression.parse(text).matches(WEB, NAME)
    except UsageError:
        return
