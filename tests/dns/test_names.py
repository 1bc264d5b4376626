"""Names: which may be a host, which mean something else, and which lie below which."""

from __future__ import annotations

import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.names import (
    Labels,
    SpecialUse,
    fold,
    from_text,
    host_name,
    matches_suffix,
    parse_text,
    reverse_address,
    special_use,
    to_text,
    to_wire,
)

host_labels = st.text(string.ascii_lowercase + "-_", min_size=1, max_size=20)
host_names = st.lists(host_labels, min_size=1, max_size=8).map(".".join)
any_labels = st.lists(st.binary(min_size=1, max_size=63), max_size=6).map(tuple)


def labels_of(text: str) -> Labels:
    return tuple(text.encode("latin-1").split(b"."))


@given(host_names)
def test_host_name_written_and_read(name: str) -> None:
    assert host_name(from_text(name)) == name
    assert from_text(name.upper() + ".") == from_text(name)


@pytest.mark.parametrize(
    "name",
    ["db", "a.b", "_dmarc.example", "xn--bcher-kva.example", "1.example", "a-.example", "3com.x1"],
)
def test_name_of_letters_digits_hyphens_may_be_a_host(name: str) -> None:
    assert host_name(labels_of(name)) == name


@pytest.mark.parametrize(
    "name", ["my printer._ipp._tcp.example", "*.example", "b\xfccher.example", "a\0b", "a/b", "a%1"]
)
def test_name_with_other_octets_may_not_be_a_host(name: str) -> None:
    assert host_name(labels_of(name)) is None


def test_label_with_dot_inside_may_not_be_a_host() -> None:
    assert host_name((b"a.b", b"example")) is None


def test_root_may_not_be_a_host() -> None:
    assert host_name(()) is None


@pytest.mark.parametrize(
    "name", ["10.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.01", "a.0x7f", "0x", "x.1"]
)
def test_name_that_reads_as_an_address_may_not_be_a_host(name: str) -> None:
    assert host_name(labels_of(name)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "b\xfccher",
        "\u212a",
        "1.2",
        "a" * 64,
        ".".join(["abc"] * 64),
    ],
)
def test_text_that_is_no_host_name_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_text(text)


def test_text_at_both_limits_read() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(to_wire(from_text(longest))) == 255
    assert len(to_wire(from_text(longest + "."))) == 255
    with pytest.raises(ValueError):
        from_text(longest + "a")


@given(any_labels)
def test_folded_name_differs_in_ascii_letters_alone(labels: Labels) -> None:
    upper, lower = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()
    table = bytes.maketrans(upper, lower)
    assert fold(labels) == tuple(label.translate(table) for label in labels)


@pytest.mark.parametrize(
    ("name", "suffix", "matches"),
    [
        ("corp.example", "corp.example", True),
        ("a.corp.example", "corp.example", True),
        ("a.b.corp.example", "corp.example", True),
        ("notcorp.example", "corp.example", False),
        ("example", "corp.example", False),
        ("corp.example.org", "corp.example", False),
    ],
)
def test_suffix_compared_label_by_label(name: str, suffix: str, matches: bool) -> None:
    assert matches_suffix(labels_of(name), labels_of(suffix)) is matches


@given(any_labels, any_labels)
def test_suffix_compared_like_the_obvious_loop(name: Labels, suffix: Labels) -> None:
    tails = [name[start:] for start in range(len(name) + 1)]
    assert matches_suffix(name, suffix) is (suffix in tails)
    assert matches_suffix(name + suffix, suffix)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("localhost", SpecialUse.LOOPBACK),
        ("a.b.localhost", SpecialUse.LOOPBACK),
        ("printer.local", SpecialUse.MULTICAST),
        ("x.onion", SpecialUse.NO_SUCH_NAME),
        ("x.invalid", SpecialUse.NO_SUCH_NAME),
        ("x.alt", SpecialUse.NO_SUCH_NAME),
        ("udp.overlay-vpn.internal", SpecialUse.NO_SUCH_NAME),
        ("use-application-dns.net", SpecialUse.CANARY),
        ("_dns.resolver.arpa", SpecialUse.DISCOVERY),
        ("ipv4only.arpa", SpecialUse.IPV4_ONLY),
    ],
)
def test_special_name_recognised(name: str, use: SpecialUse) -> None:
    assert special_use(labels_of(name)) is use


@pytest.mark.parametrize(
    "name",
    [
        "localhost.example",
        "x.onion.example",
        "a.test",
        "nas.home.arpa",
        "www.example",
        "db",
        "other.internal",
        "a.ipv4only.arpa",
        "arpa",
    ],
)
def test_ordinary_name_not_special(name: str) -> None:
    assert special_use(labels_of(name)) is None


def test_root_not_special() -> None:
    assert special_use(()) is None


@given(st.ip_addresses())
def test_reverse_name_read(address: IPv4Address | IPv6Address) -> None:
    assert reverse_address(labels_of(address.reverse_pointer)) == address


@pytest.mark.parametrize(
    "name",
    [
        "18.198.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa",
        "256.0.18.198.in-addr.arpa",
        "01.0.18.198.in-addr.arpa",
        "a.0.18.198.in-addr.arpa",
        "\xb2.0.18.198.in-addr.arpa",
        "1.0.18.198.in-addr.example",
        "f.ip6.arpa",
        ".".join(["g"] * 32) + ".ip6.arpa",
        ".".join([" "] * 32) + ".ip6.arpa",
        ".".join(["00"] + ["0"] * 31) + ".ip6.arpa",
        "example",
    ],
)
def test_other_name_no_reverse_name(name: str) -> None:
    assert reverse_address(labels_of(name)) is None


def test_reverse_name_with_dot_inside_a_label_no_reverse_name() -> None:
    assert reverse_address((b"1.2", b"3", b"4", b"5", b"in-addr", b"arpa")) is None


@given(any_labels)
def test_any_reverse_name_read_without_exception(labels: Labels) -> None:
    reverse_address((*labels, b"in-addr", b"arpa"))
    reverse_address((*labels, b"ip6", b"arpa"))


# Any name as text


@given(any_labels)
def test_any_name_is_text_and_back(labels: Labels) -> None:
    if len(to_wire(labels)) <= 255:
        text = to_text(labels)
        assert parse_text(text) == labels
        assert text.isascii()
        assert " " not in text


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((), "."),
        ((b"www", b"example"), "www.example"),
        ((b"My Printer", b"_ipp"), "My\\032Printer._ipp"),
        ((b"a.b", b"c\\d", b"\0\xff"), "a\\046b.c\\092d.\\000\\255"),
    ],
)
def test_name_has_one_text(labels: Labels, text: str) -> None:
    assert to_text(labels) == text


@pytest.mark.parametrize("text", ["www.example.", "w\\ww.example", "\\119ww.example"])
def test_name_as_people_write_it_is_read(text: str) -> None:
    assert parse_text(text) == (b"www", b"example")


def test_escaped_dot_is_in_a_label() -> None:
    assert parse_text("a\\.b.c") == (b"a.b", b"c")


@pytest.mark.parametrize(
    "text",
    ["", "..", ".a", "a..b", "a\\", "a\\25", "a\\256", "b\xfc", "a" * 64, ".".join(["a" * 63] * 4)],
)
def test_text_that_is_no_name_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_text(text)
