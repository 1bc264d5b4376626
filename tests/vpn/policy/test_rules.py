"""Egress rules: what users write, what it means, and a model that tries every port and bit."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpn.errors import UsageError
from vpn.policy.rules import (
    DEFAULT,
    NO_DESTINATION,
    Action,
    Decision,
    Names,
    Pattern,
    Policy,
    canonical,
    parse_rule,
)

ALLOWED = Decision(True, DEFAULT)
DENIED = Decision(False, DEFAULT)


def policy(*options: str) -> Policy:
    """A policy as on a command line: `+rule` is `--allow rule`, `-rule` is `--deny rule`."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return Policy(parse_rule(actions[option[0]], option[1:]) for option in options)


# What users write


@pytest.mark.parametrize(
    ("text", "pattern", "ports"),
    [
        ("*", None, None),
        ("*:443", None, range(443, 444)),
        ("example.com", Names((b"example", b"com")), None),
        ("Example.COM.", Names((b"example", b"com")), None),
        ("db", Names((b"db",)), None),
        ("xn--bcher-kva.example", Names((b"xn--bcher-kva", b"example")), None),
        ("example.com:80-90", Names((b"example", b"com")), range(80, 91)),
        ("*.Example.com", Names((b"example", b"com"), is_below=True), None),
        ("*.com.:1-65535", Names((b"com",), is_below=True), range(1, 65536)),
        ("10.0.0.0/8", ip_network("10.0.0.0/8"), None),
        ("10.0.0.0/8:80-90", ip_network("10.0.0.0/8"), range(80, 91)),
        ("192.0.2.1", ip_network("192.0.2.1/32"), None),
        ("192.0.2.1:22", ip_network("192.0.2.1/32"), range(22, 23)),
        ("2001:db8::/32", ip_network("2001:db8::/32"), None),
        ("2001:db8::1:443", ip_network("2001:db8::1:443/128"), None),
        ("[2001:DB8::1]", ip_network("2001:db8::1/128"), None),
        ("[2001:db8::/32]:443", ip_network("2001:db8::/32"), range(443, 444)),
        ("::/0", ip_network("::/0"), None),
        ("::ffff:10.0.0.0/104", ip_network("10.0.0.0/8"), None),
        ("[::ffff:192.0.2.1]:1", ip_network("192.0.2.1/32"), range(1, 2)),
    ],
)
def test_rule_is_read(text: str, pattern: Pattern, ports: range | None) -> None:
    rule = parse_rule(Action.DENY, text)
    assert (rule.action, rule.text) == (Action.DENY, text)
    assert (rule.pattern, rule.ports) == (pattern, ports)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a host name"),
        ("example.com:", "not a port"),
        ("example.com:0", "not a port"),
        ("example.com:65536", "not a port"),
        ("example.com:" + "9" * 5000, "not a port"),
        ("example.com:80-", "not a port"),
        ("example.com:90-80", "not a port"),
        ("example.com:https", "not a port"),
        ("example.com:\u0661", "not a port"),
        ("10.0.0.1/8", "host bits set"),
        ("10.0.0.0/33", "does not appear to be"),
        ("10.0.0.0/255.0.0.0", "not an address or a prefix"),
        ("10.0.0.0/8:80:90", "not an address or a prefix"),
        ("2001:db8::/32:443", "not an address or a prefix"),
        ("fe80::1%eth0", "not an address or a prefix"),
        ("[2001:db8::1", "brackets do not match"),
        ("[2001:db8::1]443", "brackets do not match"),
        ("[2001:db8::]/32", "brackets do not match"),
        ("[10.0.0.1]:80", "brackets are for IPv6"),
        ("[example.com]:80", "brackets are for IPv6"),
        ("127.1", "does not appear to be"),
        ("010.0.0.1", "does not appear to be"),
        ("2130706433", "does not appear to be"),
        ("0x7f.1", "not a host name"),
        ("*.10", "not a host name"),
        ("*.", "not a host name"),
        ("*.*.example", "not a host name"),
        ("a*.example", "not a host name"),
        (".example", "not a host name"),
        ("a..example", "not a host name"),
        ("a b", "not a host name"),
        ("a\n", "not a host name"),
        ("x" * 64, "too long"),
        ("http://example.com", "not a port"),
        ("b\u00fccher.example", "ASCII form"),
        ("\uff11\uff12\uff17.1", "ASCII form"),
    ],
)
def test_mistake_in_a_rule_is_named(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_rule(Action.ALLOW, text)
    message = str(caught.value)
    assert message.startswith("cannot read --allow '")
    assert "write a name, *.suffix, prefix or *" in message
    assert "\n" not in message


@given(st.text(st.characters() | st.sampled_from("*.:/[]-0189afx"), max_size=40))
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    try:
        rule = parse_rule(Action.DENY, text)
    except UsageError:
        return
    assert Policy([rule]).decide("example.com", 80) in (ALLOWED, Decision(False, text))


# What it means


def test_no_rules_decide() -> None:
    none = policy()
    assert none.decide("example.com", 80) == ALLOWED
    assert none.decide("2001:db8::1", 80) == ALLOWED
    assert none.decide_name("example.com") == ALLOWED


def test_deny_rules_meet_a_stranger() -> None:
    assert policy("-evil.example").decide("example.com", 80) == ALLOWED


def test_allow_rule_meets_a_stranger() -> None:
    assert policy("-evil.example", "+good.example").decide("example.com", 80) == DENIED


def test_first_match_wins_across_both_options() -> None:
    rules = policy("-db.corp:5432", "+*.corp", "-mail.corp", "+*:443")
    assert rules.decide("db.corp", 5432) == Decision(False, "db.corp:5432")
    assert rules.decide("db.corp", 22) == Decision(True, "*.corp")
    assert rules.decide("mail.corp", 25) == Decision(True, "*.corp")
    assert rules.decide("example.com", 443) == Decision(True, "*:443")
    assert rules.decide("192.0.2.1", 443) == Decision(True, "*:443")
    assert rules.decide("example.com", 80) == DENIED


def test_suffix_is_matched_by_label() -> None:
    rules = policy("+*.corp.example")
    assert rules.decide("a.corp.example", 1).allowed
    assert rules.decide("b.a.CORP.example.", 1).allowed
    for host in ("corp.example", "evilcorp.example", "a.corp.example.evil", "a.example"):
        assert rules.decide(host, 1) == DENIED


def test_name_is_compared_in_lower_case_without_its_dot() -> None:
    rules = policy("-Example.com")
    for host in ("example.com", "EXAMPLE.com.", "eXample.COM"):
        assert rules.decide(host, 80) == Decision(False, "Example.com")


def test_prefix_says_nothing_about_names() -> None:
    rules = policy("+10.0.0.0/8", "+::/0")
    assert rules.decide("example.com", 80) == DENIED
    assert rules.decide_name("example.com") == DENIED


def test_name_rule_says_nothing_about_addresses() -> None:
    assert policy("-example.com", "-*.example").decide("192.0.2.1", 80) == ALLOWED


def test_families_are_apart() -> None:
    rules = policy("-0.0.0.0/0")
    assert rules.decide("192.0.2.1", 80) == Decision(False, "0.0.0.0/0")
    assert rules.decide("2001:db8::1", 80) == ALLOWED


def test_port_zero_meets_only_rules_without_ports() -> None:
    rules = policy("+192.0.2.1:1-65535", "+192.0.2.2")
    assert rules.decide("192.0.2.1", 0) == DENIED
    assert rules.decide("192.0.2.2", 0) == Decision(True, "192.0.2.2")


# Spellings of an address


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "::ffff:10.1.2.3", "::FFFF:a01:203", "0:0:0:0:0:ffff:10.1.2.3%1"]
)
def test_denied_prefix_meets_a_spelling_of_its_address(host: str) -> None:
    assert policy("-10.0.0.0/8").decide(host, 80) == Decision(False, "10.0.0.0/8")
    assert policy("-::ffff:10.0.0.0/104").decide(host, 80) == Decision(False, "::ffff:10.0.0.0/104")
    assert canonical(host) == "10.1.2.3"


def test_ipv6_rule_meets_a_mapped_address() -> None:
    assert policy("-::/0").decide("::ffff:10.1.2.3", 80) == ALLOWED


def test_denied_prefix_meets_its_address_behind_nat64() -> None:
    assert policy("-10.0.0.0/8").decide("64:ff9b::10.1.2.3", 80) == Decision(False, "10.0.0.0/8")
    assert policy("-64:ff9b::/96").decide("64:ff9b::a01:203", 80) == Decision(False, "64:ff9b::/96")
    assert policy("-11.0.0.0/8").decide("64:ff9b::10.1.2.3", 80) == ALLOWED


def test_allowed_prefix_meets_its_address_behind_nat64() -> None:
    assert policy("+10.0.0.0/8").decide("64:ff9b::10.1.2.3", 80) == DENIED
    assert policy("+64:ff9b::/96").decide("64:ff9b::10.1.2.3", 80).allowed


def test_zone_is_dropped() -> None:
    assert policy("-fe80::/10").decide("fe80::1%eth0", 80) == Decision(False, "fe80::/10")
    assert canonical("FE80::1%eth0") == "fe80::1"


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "0x7f.1", "2130706433", "0177.0.0.1", "010.1.1.1", "1.2.3.4.", "0x", "08.1"),
        *("0.0.0.0", "::", "::ffff:0.0.0.0", "0:0::%1"),
        *("[::1]", "::ffff:0x7f.1", "::ffff:127.1", "10.0.0.1/32", "1.2.3.4 x", " 10.0.0.1"),
        *("\uff11\uff12\uff17.1", "a\u3002example", "b\u00fccher.example", "\udc80"),
        *("", ".", "a..b", "a b", "a\0", "a\n", "*", "*.example", "x" * 64, "a." * 127 + "a"),
    ],
)
def test_ambiguous_text_is_no_destination(host: str) -> None:
    for rules in (policy(), policy("+*"), policy("+0.0.0.0/0", "+::/0", "+*.example")):
        assert rules.decide(host, 80) == Decision(False, NO_DESTINATION)
        assert rules.decide_name(host) == Decision(False, NO_DESTINATION)
    assert len(canonical(host)) <= 253
    assert canonical(host).isascii()


NUMBER_FORMS = st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}", "0x0{:x}", "00{:o}"])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.lists(NUMBER_FORMS, min_size=4, max_size=4))
def test_denied_everything_meets_what_inet_aton_reads(
    address: int, parts: int, forms: list[str]
) -> None:
    tail_bits = 8 * (5 - parts)
    numbers = [address >> shift & 255 for shift in range(24, tail_bits - 8, -8)]
    numbers.append(address & (1 << tail_bits) - 1)
    host = ".".join(form.format(number) for form, number in zip(forms, numbers, strict=False))
    assert socket.inet_aton(host) == address.to_bytes(4, "big")
    assert not policy("-0.0.0.0/0").decide(host, 80).allowed


# Names in DNS


def test_name_with_an_allowed_port_is_answered() -> None:
    rules = policy("-example.com:1-442", "+example.com:443")
    assert rules.decide_name("Example.com.") == Decision(True, "example.com:443")


def test_name_with_a_denied_port_is_answered() -> None:
    assert policy("-example.com:80").decide_name("example.com") == ALLOWED


def test_denied_name_is_refused() -> None:
    assert policy("-*.evil").decide_name("a.evil") == Decision(False, "*.evil")


def test_name_whose_ports_are_denied_piece_by_piece_is_refused() -> None:
    rules = policy("-x:100-65535", "-x:1-50", "-x:40-99", "+x")
    assert rules.decide_name("x") == Decision(False, "x:40-99")


def test_name_with_one_port_left_is_answered() -> None:
    rules = policy("-x:1-65534", "-y", "+x:1-65535")
    assert rules.decide_name("x") == Decision(True, "x:1-65535")


def test_allowed_port_behind_a_denial_leaves_the_name_refused() -> None:
    assert policy("-x:443", "+x:443").decide_name("x") == DENIED


def test_address_as_a_name_is_refused() -> None:
    assert policy("+*").decide_name("192.0.2.1") == Decision(False, NO_DESTINATION)


def test_name_of_no_host_is_decided_about_by_its_labels() -> None:
    rules = policy("-*.evil", "+*.example")
    assert rules.decide_labels((b"my printer", b"example")) == Decision(True, "*.example")
    assert rules.decide_labels((b"a b", b"evil")) == Decision(False, "*.evil")
    assert rules.decide_labels((b"a.example",)) == DENIED
    assert rules.decide_labels(()) == DENIED
    assert policy().decide_labels(()) == ALLOWED


def test_policy_knows_whether_it_has_rules() -> None:
    assert not policy().has_rules
    assert policy("-x").has_rules


# A slow obvious model


@dataclass(frozen=True)
class ModelRule:
    action: Action
    host: str
    low: int
    high: int
    has_ports: bool

    @property
    def text(self) -> str:
        if not self.has_ports:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.low}" + (f"-{self.high}" if self.high != self.low else "")

    def matches(self, host: str, port: int) -> bool:
        return self.matches_host(host) and (not self.has_ports or self.low <= port <= self.high)

    def matches_host(self, host: str) -> bool:
        if self.host == "*":
            return True
        if "/" in self.host:
            return any(
                self.has_bits(address)
                for address in meanings(host, behind_nat64=self.action is Action.DENY)
            )
        if self.host.startswith("*."):
            return ("." + host).endswith(self.host[1:]) and host != self.host[2:]
        return host == self.host

    def has_bits(self, address: IPv4Address | IPv6Address) -> bool:
        start, length = self.host.split("/")
        first = IPv6Address(start) if ":" in start else IPv4Address(start)
        return first.version == address.version and bits(address).startswith(
            bits(first)[: int(length)]
        )


def bits(address: IPv4Address | IPv6Address) -> str:
    return f"{int(address):0{address.max_prefixlen}b}"


def meanings(host: str, *, behind_nat64: bool) -> list[IPv4Address | IPv6Address]:
    """The addresses of a host, which is in the normal form of its kind, or none for a name."""
    if ":" not in host:
        return [IPv4Address(host)] if host[-1].isdigit() else []
    address = IPv6Address(host)
    if host.startswith("64:ff9b::") and behind_nat64:
        return [address, IPv4Address(address.packed[12:])]
    if host.startswith("::ffff:"):
        return [IPv4Address(address.packed[12:])]
    return [address]


def model_decide(rules: list[ModelRule], host: str, port: int) -> Decision:
    for rule in rules:
        if rule.matches(host, port):
            return Decision(rule.action is Action.ALLOW, rule.text)
    return Decision(not any(rule.action is Action.ALLOW for rule in rules), DEFAULT)


LABELS = st.sampled_from(["a", "b", "ab"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
# Few differing bits, so that rules and hosts often meet.
IPV4 = st.sampled_from([0x0A000000, 0x0A000001, 0x0A800000, 0x0B000000, 0xC0000201])
IPV6 = st.sampled_from([0x20010DB8 << 96, 0x20010DB8 << 96 | 1, 0x64FF9B << 96, 1])
NETWORKS = st.builds(IPv4Network, st.tuples(IPV4, st.integers(0, 32)), st.just(False)) | st.builds(
    IPv6Network, st.tuples(IPV6, st.sampled_from([0, 1, 32, 64, 96, 127, 128])), st.just(False)
)
HOSTS = st.one_of(
    NAMES,
    IPV4.map(lambda number: str(IPv4Address(number))),
    IPV6.map(lambda number: str(IPv6Address(number))),
    IPV4.map(lambda number: f"::ffff:{IPv4Address(number)}"),
    IPV4.map(lambda number: f"64:ff9b::{IPv4Address(number)}"),
)
PORTS = st.integers(1, 8) | st.integers(65530, 65535) | st.integers(1, 65535)
PATTERNS = st.one_of(st.just("*"), NAMES, NAMES.map("*.{}".format), NETWORKS.map(str))


@st.composite
def rules_of(draw: st.DrawFn, patterns: st.SearchStrategy[str]) -> ModelRule:
    low, high = sorted((draw(PORTS), draw(PORTS)))
    action = draw(st.sampled_from(Action))
    return ModelRule(action, draw(patterns), low, high, draw(st.booleans()))


def built(rules: list[ModelRule]) -> Policy:
    return Policy(parse_rule(rule.action, rule.text) for rule in rules)


@given(st.lists(rules_of(PATTERNS), max_size=6), HOSTS, PORTS)
def test_policy_decides_as_the_model(rules: list[ModelRule], host: str, port: int) -> None:
    assert built(rules).decide(host, port) == model_decide(rules, host, port)


@settings(max_examples=40, deadline=None)
@given(st.lists(rules_of(st.sampled_from(["*", "a", "*.a", "::/0"])), max_size=6))
def test_name_is_answered_if_any_port_is_allowed(rules: list[ModelRule]) -> None:
    about_name = [rule for rule in rules if rule.matches_host("a")]
    any_allowed = any(
        next(
            (rule.action is Action.ALLOW for rule in about_name if rule.matches("a", port)),
            all(rule.action is Action.DENY for rule in rules),
        )
        for port in range(1, 65536)
    )
    assert built(rules).decide_name("a").allowed == any_allowed


@given(st.lists(rules_of(PATTERNS), max_size=6), NAMES, PORTS)
def test_refused_name_has_no_allowed_port(rules: list[ModelRule], name: str, port: int) -> None:
    made = built(rules)
    assert made.decide_name(name).allowed or not made.decide(name, port).allowed


@given(HOSTS)
def test_canonical_host_stays(host: str) -> None:
    once = canonical(host)
    assert canonical(once) == once
    assert canonical(host.upper()) == once


def test_rule_that_decided_has_its_place() -> None:
    policy = Policy(
        [
            parse_rule(Action.DENY, "10.0.0.0/8"),
            parse_rule(Action.ALLOW, "*.example:443"),
            parse_rule(Action.ALLOW, "10.0.0.0/8"),
        ]
    )
    for place, (host, port) in enumerate([("x.org", 1), ("10.1.1.1", 1), ("www.example", 443)]):
        assert policy.number_of(policy.decide(host, port)) == place
    assert policy.number_of(policy.decide("127.1", 1)) == 0
