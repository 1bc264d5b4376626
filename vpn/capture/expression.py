"""The filter of `capture`: terms joined by `and`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from dns.codes import PORT
from dns.names import fold, from_text, host_name
from vpn.capture.headers import ICMP, ICMPV6, TCP, UDP, Headers
from vpn.errors import UsageError

Term = Callable[[Headers, str], bool]
"""A predicate of a packet: of its headers and the name of its far end."""

_PROTOCOLS: Final[dict[str, Term]] = {
    "tcp": lambda headers, _: headers.protocol == TCP,
    "udp": lambda headers, _: headers.protocol == UDP,
    "icmp": lambda headers, _: headers.protocol in (ICMP, ICMPV6),
    "dns": lambda headers, _: PORT in (headers.source_port, headers.destination_port),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of terms."""

    terms: tuple[Term, ...]

    def matches(self, headers: Headers | None, name: str) -> bool:
        """Return whether all terms are true of a packet. One without headers matches no term."""
        if headers is None:
            return not self.terms
        return all(term(headers, name) for term in self.terms)


def parse(text: str) -> Filter:
    """Return the filter that `text` means; an empty one takes everything. Raises UsageError."""
    if not text.strip():
        return Filter(())
    return Filter(tuple(_term(words) for words in re.split(r"\s+and\s+", text.strip())))


def _term(words: str) -> Term:
    match words.split():
        case [protocol] if protocol in _PROTOCOLS:
            return _PROTOCOLS[protocol]
        case ["host", host]:
            return _of_host(host)
        case ["port", port] if port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536:
            number = int(port)
            return lambda headers, _: number in (headers.source_port, headers.destination_port)
    raise _malformed(words)


def _of_host(host: str) -> Term:
    """Return whether a packet is from or to an address, a prefix, or the name it stands for."""
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        return _of_name(host)
    return lambda headers, _: headers.source in network or headers.destination in network


def _of_name(host: str) -> Term:
    try:
        wanted = host_name(fold(from_text(host)))
    except ValueError:
        wanted = None
    if wanted is None:
        raise _malformed(f"host {host}")
    return lambda _, name: name == wanted


def _malformed(words: str) -> UsageError:
    return UsageError(
        f"cannot read the filter at {words!r}: write tcp, udp, icmp, dns, 'host NAME', "
        "'host ADDRESS', 'host PREFIX' or 'port NUMBER', joined by 'and'"
    )
