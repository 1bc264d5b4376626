"""Domain names: labels, their text form, and names with a special use.

A name is a tuple of labels without that of the root, which is `()`. Octets keep their case, because
a resolver that randomises case wants it back (draft-vixie-dnsext-dns0x20): fold before comparing.
IDNA A-labels are LDH labels like any other, and need no care.
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

MAX_LABEL = 63
"""Octets in a label, RFC 1035 §2.3.4."""
MAX_NAME = 255
"""Octets in a name on the wire, length octets and root included, RFC 1035 §2.3.4."""

Labels = tuple[bytes, ...]

_HOST_LABEL = re.compile(rb"[a-z0-9_-]+")
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b".\\")
_LABEL_TEXT = rb"(?:[^.\\]|\\[0-9]{3}|\\[^0-9])+"
_NAME_TEXT = re.compile(rb"%s(?:\.%s)*\.?" % (_LABEL_TEXT, _LABEL_TEXT), re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-9]{3}|.)", re.DOTALL)
_NUMBER = re.compile(rb"[0-9]+|0x[0-9a-f]*")


def fold(labels: Labels) -> Labels:
    """Return the name with ASCII letters in lower case and all other octets kept (RFC 4343)."""
    return tuple(label.lower() for label in labels)


def to_wire(labels: Labels) -> bytes:
    """Return the name as it stands in a message, uncompressed (RFC 1035 §3.1)."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def from_text(text: str) -> Labels:
    """Return a host name, in lower case; one trailing dot is allowed.

    Raises ValueError if `text` is empty, too long, or has labels that no host name has. Names in
    other scripts are written as A-labels (`xn--…`).
    """
    labels = tuple(text.encode("ascii").lower().removesuffix(b".").split(b"."))
    if host_name(labels) is None:
        raise ValueError(f"{text!r} is not a host name")
    return _of_legal_length(labels, text)


def to_text(labels: Labels) -> str:
    """Return any name as text: RFC 1035 §5.1, without trailing dot; the root is `.`.

    It is printable ASCII without spaces. A host name is itself.
    """
    text = ".".join(
        "".join(chr(octet) if octet in _PLAIN else f"\\{octet:03}" for octet in label)
        for label in labels
    )
    return text or "."


def parse_text(text: str) -> Labels:
    """Return the name that `to_text` or a user has written; one trailing dot is allowed.

    Raises ValueError if it is none.
    """
    octets = text.encode("ascii")
    if octets == b".":
        return ()
    if not _NAME_TEXT.fullmatch(octets):
        raise ValueError(f"{text!r} is not a name")
    labels = tuple(map(_unescape, re.findall(_LABEL_TEXT, octets)))
    return _of_legal_length(labels, text)


def _of_legal_length(labels: Labels, text: str) -> Labels:
    if max(map(len, labels)) > MAX_LABEL or len(to_wire(labels)) > MAX_NAME:
        raise ValueError(f"{text!r} is too long for a name")
    return labels


def _unescape(label: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: _octet(found[1]), label)


def _octet(escaped: bytes) -> bytes:
    return bytes((int(escaped),)) if escaped.isdigit() else escaped


def host_name(labels: Labels) -> str | None:
    """Return the text form of a folded name that a machine could have, else None.

    Labels are letters, digits, hyphens and underscores. Other names (service instance names with
    spaces, binary labels) exist, but have no addresses: the answer is NODATA, as NXDOMAIN would
    also deny the PTR or TXT records that such names do have (RFC 8020 §2).

    A last label that reads as a number is refused too: inet_aton(3), and so getaddrinfo(3) at
    the far end, takes `10.1`, `2130706433` and `0x7f.1` for addresses. Behind a virtual address
    these would evade every rule that is written in prefixes. No such top-level domain can exist
    (RFC 3696 §2).
    """
    if not labels or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        return None
    if _NUMBER.fullmatch(labels[-1]):
        return None
    return b".".join(labels).decode("ascii")


def matches_suffix(labels: Labels, suffix: Labels) -> bool:
    """Say whether a folded name is `suffix` or lies below it."""
    return labels[len(labels) - len(suffix) :] == suffix


class SpecialUse(Enum):
    """The special uses of names (RFC 6761), with an answer that does not come from the DNS."""

    LOOPBACK = "the host that asks"
    NO_SUCH_NAME = "never looked up in the DNS: of another name system, or of none"
    MULTICAST = "of multicast DNS; many private networks use that domain, too"
    IPV4_ONLY = "the probe for NAT64 (RFC 7050)"
    DISCOVERY = "the probe for a resolver with encrypted transport (RFC 9462)"
    CANARY = "the probe for whether applications are to use the resolver of the network"


FIXED_ADDRESSES: dict[SpecialUse, tuple[IPv4Address | IPv6Address, ...]] = {
    SpecialUse.LOOPBACK: (IPv4Address("127.0.0.1"), IPv6Address("::1")),
    # RFC 7050 §8.2. No AAAA among them: there is no NAT64 here, addresses are translated by name.
    SpecialUse.IPV4_ONLY: (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")),
}
"""The addresses of special names that have any, the same everywhere."""

_SPECIAL_DOMAINS: dict[Labels, SpecialUse] = {
    (b"localhost",): SpecialUse.LOOPBACK,  # RFC 6761 §6.3
    (b"invalid",): SpecialUse.NO_SUCH_NAME,  # RFC 6761 §6.4
    (b"onion",): SpecialUse.NO_SUCH_NAME,  # RFC 7686 §2
    (b"alt",): SpecialUse.NO_SUCH_NAME,  # RFC 9476 §2
    (b"local",): SpecialUse.MULTICAST,  # RFC 6762 §22.1
    (b"resolver", b"arpa"): SpecialUse.DISCOVERY,  # RFC 9462 §4
    (b"use-application-dns", b"net"): SpecialUse.CANARY,  # Mozilla's canary domain
    # Services of our own server: destinations inside the tunnel, not names for applications.
    (b"overlay-vpn", b"internal"): SpecialUse.NO_SUCH_NAME,
}
_IPV4_ONLY: Labels = (b"ipv4only", b"arpa")  # RFC 8880; nothing is special below it


def special_use(labels: Labels) -> SpecialUse | None:
    """Return the special use of a folded name, or None for an ordinary one.

    Ordinary on purpose: `.test` (RFC 6761 §6.2: free to use on each network) and `home.arpa`
    (RFC 8375 §4: asked of the resolver that the network gives) mean what the far network says;
    `.example` is never special to resolvers (RFC 6761 §6.5); names of one label are what
    container networks are made of, and the far end decides about them as about any other.
    """
    if labels == _IPV4_ONLY:
        return SpecialUse.IPV4_ONLY
    return _SPECIAL_DOMAINS.get(labels[-1:]) or _SPECIAL_DOMAINS.get(labels[-2:])


def reverse_address(labels: Labels) -> IPv4Address | IPv6Address | None:
    """Return the address that a folded reverse name stands for (RFC 1035 §3.5, RFC 3596 §2.5).

    None for everything else, names of whole networks included.
    """
    digits, domain = labels[:-2], labels[-2:]
    try:
        if domain == (b"in-addr", b"arpa") and len(digits) == 4:
            return IPv4Address(b".".join(reversed(digits)).decode("ascii"))
        if domain == (b"ip6", b"arpa") and [len(digit) for digit in digits] == [1] * 32:
            return IPv6Address(bytes.fromhex(b"".join(reversed(digits)).decode("ascii")))
    except ValueError:  # AddressValueError and UnicodeDecodeError are ValueErrors
        pass
    return None
