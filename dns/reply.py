"""An answer as a stub resolver gets it, from whoever: read within bounds, and shown to people.

Reading is that of `dns.records`: names are followed with a limit, and what is no message raises
`WireError`. Showing is RFC 1035 §5.1 for the types that people ask for, and RFC 3597 §5 for the
rest; nothing shown does anything to a terminal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dns.codes import RCode, RRType
from dns.names import Labels, to_text
from dns.records import Reader, Record
from dns.upstream import answers
from dns.wire import HEADER, TC, WireError, read_question, read_record

# fmt: off
TYPES: Final = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16,
    "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "DNAME": 39, "DS": 43, "SSHFP": 44,
    "DNSKEY": 48, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "ANY": 255, "URI": 256, "CAA": 257,
}
# fmt: on
"""Those that people ask for (IANA); any other is TYPE and a number (RFC 3597 §5)."""

_NAMES: Final = {number: name for name, number in TYPES.items()}
_EVERY: Final = range(0x10000)
_NO_LIMIT_S: Final = 0x7FFFFFFF
_EXTENDED_ERROR: Final = 15


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered. `why` is the text of an extended error (RFC 8914), or empty."""

    rcode: int
    is_truncated: bool
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    why: str

    @property
    def rcode_name(self) -> str:
        """The name of the response code, RCODE and a number for one without."""
        try:
            return RCode(self.rcode).name
        except ValueError:
            return f"RCODE{self.rcode}"


def read_reply(wire: bytes, ident: int, labels: Labels, rtype: int) -> Reply | None:
    """Return the answer to a query for folded `labels`; None if it is another's.

    Raises WireError.
    """
    if not answers(wire, ident, labels, rtype):
        return None
    _, flags, _, count, authority, additional = HEADER.unpack_from(wire)
    reader, offset = Reader(wire), read_question(wire)[3]
    found, offset = reader.read(offset, count, _EVERY, _NO_LIMIT_S)
    others, offset = reader.read(offset, authority, _EVERY, _NO_LIMIT_S)
    upper, why = _read_opt(wire, offset, additional)
    return Reply(upper << 4 | flags & 0xF, bool(flags & TC), tuple(found), tuple(others), why)


def type_number(text: str) -> int:
    """Return the type that a person means. Raises ValueError."""
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
    """Return how a type is called."""
    return _NAMES.get(number, f"TYPE{number}")


def show(record: Record) -> str:
    """Return a record as a line: owner, time to live, class, type, data."""
    try:
        data = _SHOWN.get(record.rtype, _unknown)(record.data)
    except (ValueError, IndexError, struct.error):
        data = _unknown(record.data)
    owner = _name(record.owner)[0]
    return f"{owner} {record.ttl_s} IN {type_name(record.rtype)} {data}"


def _read_opt(wire: bytes, offset: int, count: int) -> tuple[int, str]:
    """Return the upper bits of the response code, and the text of an extended error."""
    for _ in range(count):
        record, end = read_record(wire, offset)
        if record.rtype == RRType.OPT:
            return record.ttl >> 24, _extended(wire[end - record.rdlength : end])
        offset = end
    return 0, ""


def _extended(options: bytes) -> str:
    while len(options) >= 4:
        code, size = struct.unpack_from("!HH", options)
        data, options = options[4 : 4 + size], options[4 + size :]
        if code == _EXTENDED_ERROR and len(data) >= 2:
            text = data[2:].decode("utf-8", "replace")
            return "".join(one if one.isprintable() else "?" for one in text)
    return ""


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
