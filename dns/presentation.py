"""The presentation format of records and types: RFC 1035 §5.1, and RFC 3597 §5 for the rest.

Data that does not fit its type is shown as octets. All text is printable ASCII, whatever the octets
are: it does nothing to a terminal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dns.names import to_text
from dns.records import Record
from dns.wire import WireError

# fmt: off
TYPES: Final = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16,
    "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "DNAME": 39, "DS": 43, "SSHFP": 44,
    "DNSKEY": 48, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "ANY": 255, "URI": 256, "CAA": 257,
}
# fmt: on
"""Types with a name here (IANA); any other is TYPE and a number (RFC 3597 §5)."""

_NAMES: Final = {number: name for name, number in TYPES.items()}


def type_number(text: str) -> int:
    """Return the type with such a name, in any case. Raises ValueError."""
    name = text.upper()
    number = TYPES.get(name)
    if number is None:
        digits = name.removeprefix("TYPE")
        if digits == name or not (digits.isascii() and digits.isdigit() and len(digits) < 6):
            raise ValueError(f"{text!r} is not a type")
        number = int(digits)
    if not 0 < number < 0x10000:
        raise ValueError(f"{text!r} is not a type")
    return number


def type_name(number: int) -> str:
    """Return the name of a type."""
    return _NAMES.get(number, f"TYPE{number}")


def show(record: Record) -> str:
    """Return a record as a line: owner, time to live, class, type, data."""
    try:
        data = _SHOWN.get(record.rtype, _unknown)(record.data)
    except (ValueError, IndexError, struct.error):
        data = _unknown(record.data)
    owner = _name(record.owner)[0]
    return f"{owner} {record.ttl_s} IN {type_name(record.rtype)} {data}"


def _name(data: bytes) -> tuple[str, bytes]:
    """Return the name at the beginning, absolute, and what is behind it."""
    labels: list[bytes] = []
    while length := data[0]:
        if length >= len(data):
            raise WireError("name cut short")
        labels.append(data[1 : 1 + length])
        data = data[1 + length :]
    return (to_text(tuple(labels)) + "." if labels else "."), data[1:]


def _names(numbers: str, count: int = 1) -> Callable[[bytes], str]:
    """Show numbers, in the format of `struct`, and then names."""
    head = struct.Struct("!" + numbers)

    def shown(data: bytes) -> str:
        parts, rest = list(map(str, head.unpack_from(data))), data[head.size :]
        for _ in range(count):
            name, rest = _name(rest)
            parts.append(name)
        return " ".join(parts)

    return shown


def _soa(data: bytes) -> str:
    primary, rest = _name(data)
    mailbox, rest = _name(rest)
    return " ".join([primary, mailbox, *map(str, struct.unpack("!5I", rest))])


def _texts(data: bytes) -> str:
    parts = []
    while data:
        parts.append(_quoted(data[1 : 1 + data[0]]))
        data = data[1 + data[0] :]
    return " ".join(parts)


def _caa(data: bytes) -> str:
    tag, value = data[2 : 2 + data[1]], data[2 + data[1] :]
    if not tag.isalnum():  # RFC 8659 §4.1
        raise ValueError("not a tag")
    return f"{data[0]} {tag.decode('ascii')} {_quoted(value)}"


def _quoted(data: bytes) -> str:
    shown = (
        f"\\{octet:03}" if not 0x20 <= octet < 0x7F else "\\" * (octet in b'"\\') + chr(octet)
        for octet in data
    )
    return f'"{"".join(shown)}"'


def _unknown(data: bytes) -> str:
    return f"\\# {len(data)} {data.hex()}".rstrip()


_SHOWN: Final[dict[int, Callable[[bytes], str]]] = {
    **dict.fromkeys((2, 5, 12, 39), _names("")),
    6: _soa,
    15: _names("H"),
    33: _names("3H"),
    1: lambda data: str(IPv4Address(data)),
    28: lambda data: str(IPv6Address(data)),
    **dict.fromkeys((13, 16), _texts),
    257: _caa,
}
