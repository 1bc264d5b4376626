"""Search domains: what a server may say, and what is taken of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.search import MAX_CHARACTERS, MAX_DOMAINS, chosen, read, write


def test_domains_written_are_read_in_order() -> None:
    domains = ("corp.example", "lab.corp.example")
    assert read([write(domains)]) == domains


def test_no_domains_are_written_as_an_empty_string() -> None:
    assert write(()) == b"\0"
    assert read([b"\0"]) == ()


def test_case_and_trailing_dot_do_not_matter_and_twins_are_one() -> None:
    assert chosen(["Corp.Example.", "corp.example"]) == ("corp.example",)


@pytest.mark.parametrize(
    "domain",
    [
        *("", ".", "com", "lan", "localdomain", "a b", "a\nb.c", "*.example", "10.1", "a.0x1"),
        *("x.local", "x.onion", "x.localhost", "services.overlay-vpn.internal", "b\xfccher.de"),
        *("a" * 64 + ".example", "a." * 127 + "example", "nameserver 192.0.2.1"),
    ],
)
def test_what_is_no_domain_of_somebody_is_left_out(domain: str) -> None:
    assert chosen([domain, "corp.example"]) == ("corp.example",)


def test_more_than_all_resolvers_take_are_cut() -> None:
    assert len(chosen(f"d{n}.example" for n in range(99))) == MAX_DOMAINS
    long = [f"{'x' * 50}{n}.example" for n in range(6)]
    assert len(" ".join(chosen(long))) <= MAX_CHARACTERS
    assert len(chosen(long)) == 4


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_octets_give_domains_or_none(records: list[bytes]) -> None:
    found = read(records)
    assert found == chosen(found)
    assert all(one.isascii() and " " not in one and "\n" not in one for one in found)
