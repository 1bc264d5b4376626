"""The rules of `--allow` and `--deny`: the destinations that a command may reach. Pure.

Theory of operation
-------------------
The rules stand in the order of the command line and the first that matches decides. Where none
does, everything is denied if there is any `--allow`, else everything is allowed.

A destination is a name or an address, never both: names are resolved at the far end, so a rule
with a prefix says nothing about names, and a rule with a name nothing about addresses. Whoever
denies 10.0.0.0/8 but allows names lets the far end's DNS decide what these mean; whoever allows
only prefixes allows no name. `localhost` is a name too. A name is what was asked for: where an
alias (CNAME) or the search list of the far end leads from there is not seen.

An address has many spellings, and each would be a way around the rules written in another one:

- An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is the IPv4 address, in rules and destinations:
  connect(2) sends IPv4 to it.
- `127.1`, `0x7f.1`, `2130706433`: addresses to inet_aton(3), and different ones or names to other
  resolvers (`010.1` is octal or not). They are no destination, whatever the rules say.
- 0.0.0.0 and :: are no destination either (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2); Linux would
  connect to the loopback of the far end.
- Text in other scripts is no destination: resolvers turn full-width digits and dots into ASCII,
  and IDNA 2003 and 2008 differ on which name `ß` means. Names are written as A-labels.
- 64:ff9b::/96 leads to IPv4 addresses where the far network has a NAT64 (RFC 6052 §2.1), and is
  IPv6 all the way to it. So a deny rule matches either address, an allow rule only the IPv6
  one. Prefixes that a network has chosen itself (RFC 6052 §2.2, RFC 8215) cannot be known here:
  to deny IPv4 addresses in such a network, deny its prefix too.
- The zone of an address (RFC 4007 §11) is dropped: it is an interface of another machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from dns.names import Labels, from_text, matches_suffix
from vpn.endpoint import MAX_PORT, split_bare_host
from vpn.errors import UsageError

DEFAULT: Final = "default"
"""The rule text of what no rule matches."""
NO_DESTINATION: Final = "not a destination"
"""The rule text of what is neither a name nor an address, and always denied."""

_MAX_TEXT: Final = 253
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOW_32_BITS: Final = 0xFFFFFFFF

_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_DOTTED: Final = re.compile(r"[0-9.]+")
_PREFIX: Final = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")  # no zone, no netmask
_FORMS: Final = "a name, *.suffix, prefix or *, and if need be :port or :port-port"

_Address = IPv4Address | IPv6Address


class Action(StrEnum):
    """The effect of a rule; the value is the name of its option."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Names:
    """Matches one name, or with `is_below` the names below it, itself excluded."""

    labels: Labels
    """In lower case."""
    is_below: bool = False


Pattern = Names | IPv4Network | IPv6Network | None
"""None matches every name and every address."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One `--allow` or `--deny`. `text` is what the user wrote; `ports` None means any port."""

    action: Action
    text: str
    pattern: Pattern
    ports: range | None

    def covers_port(self, port: int) -> bool:
        """Return whether the rule is about this port."""
        return self.ports is None or port in self.ports


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a destination is allowed, and why: the text of a rule, DEFAULT or NO_DESTINATION."""

    allowed: bool
    rule_text: str


class Policy:
    """Rules in the order of the command line."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._default = Decision(all(rule.action is Action.DENY for rule in self._rules), DEFAULT)
        self._edges = _edges(self._rules)

    @property
    def has_rules(self) -> bool:
        """Whether there is any rule."""
        return bool(self._rules)

    def number_of(self, decision: Decision) -> int:
        """Return the place of the rule that decided, from 1; 0 if it was none."""
        texts = [(rule.action is Action.ALLOW, rule.text) for rule in self._rules]
        wanted = decision.allowed, decision.rule_text
        return texts.index(wanted) + 1 if wanted in texts else 0

    def decide(self, host: str, port: int) -> Decision:
        """Decide about `host`, a name or an address without brackets.

        Port 0 stands for what has no port (ICMP echo): only rules without ports match it.
        """
        destination = _read(host)
        if destination is None:
            return Decision(False, NO_DESTINATION)
        for rule in self._rules:
            if rule.covers_port(port) and _covers(rule, destination):
                return _decision(rule)
        return self._default

    def decide_name(self, name: str) -> Decision:
        """Decide whether DNS may answer for `name`: if `decide` allows it any port at all.

        The rule is the first that allows a port, or the one that left none.
        """
        labels = _read(name)
        if not isinstance(labels, tuple):
            return Decision(False, NO_DESTINATION)
        return self.decide_labels(labels)

    def decide_labels(self, labels: Labels) -> Decision:
        """Decide like `decide_name` about a name that is none of a host.

        For records that are no addresses: nobody connects to such a name.
        """
        undecided = self._edges
        for rule in self._rules:
            if not _covers(rule, labels):
                continue
            left = {port for port in undecided if not rule.covers_port(port)}
            if not left or (rule.action is Action.ALLOW and left != undecided):
                return _decision(rule)
            undecided = left
        return self._default


def canonical(host: str) -> str:
    """Return the one text of a host, however it is spelled; ASCII, at most 253 characters.

    What is no destination is escaped and cut.
    """
    destination = _read(host)
    if destination is None:
        return host.encode("ascii", "backslashreplace").decode("ascii")[:_MAX_TEXT]
    if isinstance(destination, tuple):
        return b".".join(destination).decode("ascii")
    return str(destination)


def parse_rule(action: Action, text: str) -> Rule:
    """Return the rule that `text` states. Raises UsageError.

    An IPv6 address or prefix stands in brackets where a port follows: in `2001:db8::1:443` the
    last number is part of the address.
    """
    try:
        host, ports = _split_ports(text)
        return Rule(action, text, _parse_pattern(host), ports)
    except ValueError as error:
        raise UsageError(f"cannot read --{action} {text!r}: {error}; write {_FORMS}") from None


def _read(host: str) -> Labels | _Address | None:
    """Return the destination that `host` means to everybody, or None."""
    try:
        address = ip_address(host)
    except ValueError:
        try:
            return from_text(host)  # refuses what inet_aton(3) would take for an address
        except ValueError:
            return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return None if address.is_unspecified else address


def _covers(rule: Rule, destination: Labels | _Address) -> bool:
    """Return whether the rule is about this destination, on whatever port."""
    match rule.pattern:
        case None:
            return True
        case Names(labels, False):
            return destination == labels
        case Names(suffix):
            return (
                isinstance(destination, tuple)
                and len(destination) > len(suffix)
                and matches_suffix(destination, suffix)
            )
        case network:
            if isinstance(destination, tuple):
                return False
            if destination in network:
                return True
            return rule.action is Action.DENY and _translated(destination) in network


def _translated(address: _Address) -> _Address:
    """Return where a NAT64 with the well-known prefix delivers (RFC 6052 §2.1)."""
    return IPv4Address(int(address) & _LOW_32_BITS) if address in _NAT64 else address


def _decision(rule: Rule) -> Decision:
    return Decision(rule.action is Action.ALLOW, rule.text)


def _edges(rules: Iterable[Rule]) -> set[int]:
    """Return ports that stand for all: decisions change only where a range begins or has ended."""
    ranges = [rule.ports for rule in rules if rule.ports is not None]
    begins = {1, *(ports.start for ports in ranges)}
    return begins | {ports.stop for ports in ranges if ports.stop <= MAX_PORT}


def _split_ports(text: str) -> tuple[str, range | None]:
    host, ports = split_bare_host(text)
    if text.startswith("[") and ":" not in host:
        raise ValueError("brackets are for IPv6")
    return host, None if ports is None else _parse_ports(ports)


def _parse_ports(text: str) -> range:
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a port or a range of ports")
    low = int(match[1])
    high = int(match[2] or low)
    if not 0 < low <= high <= MAX_PORT:
        raise ValueError(f"{text!r} is not a port or a range of ports")
    return range(low, high + 1)


def _parse_pattern(text: str) -> Pattern:
    if text == "*":
        return None
    if ":" in text or "/" in text or _DOTTED.fullmatch(text):
        return _parse_network(text)
    if not text.isascii():
        raise ValueError("a name in another script is written in its ASCII form (xn--…)")
    if text.startswith("*."):
        return Names(from_text(text[2:]), is_below=True)
    return Names(from_text(text))


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is not an address or a prefix")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & _LOW_32_BITS
        return IPv4Network((low, network.prefixlen - _MAPPED.prefixlen))
    return network
