"""Which way a question takes."""

from __future__ import annotations

import pytest

from dns.disposition import HIDDEN, Path, is_data, path_of
from dns.names import Labels, parse_text

A, MX, PTR, TXT, AAAA, CAA, ANY, AXFR, OPT = 1, 15, 12, 16, 28, 257, 255, 252, 41


def path(name: str, rtype: int, suffixes: tuple[str, ...] = (), asks: bool = True) -> Path:
    domains: tuple[Labels, ...] = tuple(map(parse_text, suffixes))
    return path_of(parse_text(name), rtype, domains, is_pooled=False, asks=asks)


@pytest.mark.parametrize("rtype", [A, AAAA, MX, TXT, PTR, CAA, 65280])
def test_ordinary_name_is_asked_at_the_far_end(rtype: int) -> None:
    assert path("www.example", rtype) is Path.FAR


@pytest.mark.parametrize("rtype", [A, AAAA, MX, ANY])
def test_where_nobody_is_asked_it_is_made_here(rtype: int) -> None:
    assert path("www.example", rtype, asks=False) is Path.VIRTUAL


@pytest.mark.parametrize("rtype", [*HIDDEN, ANY, AXFR, OPT, 0, 65535])
def test_type_that_is_never_asked_is_answered_here(rtype: int) -> None:
    assert path("www.example", rtype) is Path.VIRTUAL


def test_name_that_is_no_host_has_no_address_and_may_have_records() -> None:
    assert path("my\\032printer._ipp._tcp.example", A) is Path.VIRTUAL
    assert path("my\\032printer._ipp._tcp.example", TXT) is Path.FAR
    assert path(".", 2) is Path.FAR


@pytest.mark.parametrize("name", ["localhost", "x.onion", "x.local", "use-application-dns.net"])
def test_special_name_is_special(name: str) -> None:
    assert path(name, MX) is Path.SPECIAL


def test_name_of_another_suffix_is_forwarded() -> None:
    for name in ("www.example", "x.onion", "printer.local", "localhost", "com"):
        assert path(name, A, ("corp.example", "office.local")) is Path.FORWARDED


def test_name_of_a_suffix_is_ours() -> None:
    for name in ("db.corp.example", "corp.example", "x.office.local"):
        assert path(name, A, ("corp.example", "office.local")) is Path.FAR


def test_names_by_which_resolvers_are_chosen_are_always_ours() -> None:
    for name in ("_dns.resolver.arpa", "use-application-dns.net"):
        assert path(name, A, ("corp.example",)) is Path.SPECIAL


def test_address_of_the_pool_is_always_ours() -> None:
    name = parse_text("16.0.18.198.in-addr.arpa")
    assert path_of(name, PTR, (parse_text("corp.example"),), is_pooled=True, asks=True) is (
        Path.VIRTUAL
    )


@pytest.mark.parametrize("rtype", [1, 2, 99, 127, 256, 257, 32769, 65534])
def test_type_of_data_is_data(rtype: int) -> None:
    assert is_data(rtype)


@pytest.mark.parametrize("rtype", [0, 41, 128, 249, 250, 251, 252, 253, 254, 255, 65535])
def test_type_of_a_query_is_not_data(rtype: int) -> None:
    assert not is_data(rtype)
