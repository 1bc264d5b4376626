"""resolv.conf(5), read as a stub resolver reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.resolv_conf import MAX_SERVERS, parse


def test_file_as_it_usually_is() -> None:
    got = parse(
        "# made by a program\n"
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"
        "search corp.example lab.example\noptions timeout:1 attempts:3 edns0\n"
    )
    assert got.servers == ("192.0.2.53", "2001:db8::53")
    assert got.search == ("corp.example", "lab.example")
    assert (got.timeout_s, got.attempts) == (1, 3)


def test_empty_file_means_this_machine() -> None:
    got = parse("")
    assert (got.servers, got.search) == (("127.0.0.1",), ())
    assert (got.timeout_s, got.attempts) == (5, 2)


def test_last_of_domain_and_search_counts() -> None:
    assert parse("search a.example b.example\ndomain c.example\n").search == ("c.example",)
    assert parse("domain c.example\nsearch a.example b.example").search == (
        "a.example",
        "b.example",
    )


def test_more_servers_than_a_stub_takes_are_left_out() -> None:
    text = "".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 9))
    assert len(parse(text).servers) == MAX_SERVERS


@pytest.mark.parametrize(
    "line", ["nameserver", "nameserver dns.example", "; nameserver 192.0.2.1", "#nameserver ::1"]
)
def test_line_without_a_server_names_none(line: str) -> None:
    assert parse(f"{line}\nnameserver 192.0.2.2").servers == ("192.0.2.2",)


@pytest.mark.parametrize(
    "value", ["timeout:", "timeout:x", "timeout:-1", "timeout:\xb2", "timeout"]
)
def test_option_without_a_number_is_none(value: str) -> None:
    assert parse(f"options {value}").timeout_s == 5


def test_numbers_have_limits() -> None:
    got = parse("options timeout:99999999999999 attempts:99")
    assert (got.timeout_s, got.attempts) == (30, 5)
    got = parse("options timeout:0 attempts:0")
    assert (got.timeout_s, got.attempts) == (1, 1)


@given(st.text())
def test_any_text_means_something(text: str) -> None:
    for each in (text, f"options {text}", f"nameserver {text}", f"search {text}"):
        got = parse(each)
        assert got.servers
        assert 1 <= got.timeout_s <= 30
