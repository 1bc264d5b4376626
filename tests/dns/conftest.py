"""Two ends of a conversation: `ask` writes queries, `read` takes answers apart.

`read` is the slow obvious reader: it follows pointers wherever they go and shares no code with
the package under test, nor with the library that builds its answers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from dns.pool import Pool, buffer_size

KEY = b"the key of the tests"
NET4 = IPv4Network("198.18.0.0/15")
NET6 = IPv6Network("fd00:1:2:3::/64")
OPT = 41


@dataclass
class Record:
    owner: tuple[bytes, ...]
    rtype: int
    rclass: int
    ttl: int
    data: bytes
    name: tuple[bytes, ...] | None = None

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return IPv4Address(self.data) if self.rtype == 1 else IPv6Address(self.data)


@dataclass
class Message:
    id: int
    flags: int
    rcode: int
    question: bytes
    answers: list[Record]
    authority: list[Record]
    payload: int | None = None
    do: bool = False
    options: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & 0x0200)

    @property
    def extended_error(self) -> int | None:
        return int.from_bytes(self.options[15][:2], "big") if 15 in self.options else None

    @property
    def addresses(self) -> list[IPv4Address | IPv6Address]:
        return [record.address for record in self.answers if record.rtype in (1, 28)]


def write_name(name: str | tuple[bytes, ...]) -> bytes:
    labels = tuple(name.encode().split(b".")) if isinstance(name, str) else name
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def write_query(
    name: str | tuple[bytes, ...] = "app.example",
    qtype: int = 1,
    *,
    ident: int = 0x1234,
    flags: int = 0x0100,
    qclass: int = 1,
    payload: int | None = None,
    do: bool = False,
    version: int = 0,
) -> bytes:
    has_opt = payload is not None
    wire = struct.pack("!6H", ident, flags, 1, 0, 0, has_opt)
    wire += write_name(name) + struct.pack("!HH", qtype, qclass)
    if has_opt:
        wire += struct.pack("!BHHIH", 0, OPT, payload, version << 16 | do << 15, 0)
    return wire


def read_name(wire: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    length = wire[at]
    if length == 0:
        return (), at + 1
    if length >= 0xC0:
        target = int.from_bytes(wire[at : at + 2], "big") & 0x3FFF
        return read_name(wire, target)[0], at + 2
    rest, end = read_name(wire, at + 1 + length)
    return (wire[at + 1 : at + 1 + length], *rest), end


def read_record(wire: bytes, at: int) -> tuple[Record, int]:
    owner, at = read_name(wire, at)
    rtype, rclass, ttl, length = struct.unpack_from("!HHIH", wire, at)
    at += 10
    record = Record(owner, rtype, rclass, ttl, wire[at : at + length])
    if rtype in (5, 12):
        record.name = read_name(wire, at)[0]
    return record, at + length


def read_message(wire: bytes) -> Message:
    ident, flags, questions, *counts = struct.unpack_from("!6H", wire)
    at = 12
    for _ in range(questions):
        _, at = read_name(wire, at)
        at += 4
    message = Message(ident, flags, flags & 0xF, wire[12:at], [], [])
    extra: list[Record] = []
    for count, section in zip(counts, (message.answers, message.authority, extra), strict=True):
        for _ in range(count):
            record, at = read_record(wire, at)
            section.append(record)
    assert at == len(wire), "octets behind the last record"
    for record in extra:
        assert (record.owner, record.rtype) == ((), OPT)
        assert message.payload is None, "two OPT records"
        message.payload = record.rclass
        message.do = bool(record.ttl & 0x8000)
        message.rcode |= record.ttl >> 24 << 4
        while record.data:
            code, length = struct.unpack_from("!HH", record.data)
            message.options[code] = record.data[4 : 4 + length]
            record.data = record.data[4 + length :]
    return message


@pytest.fixture(scope="session")
def ask() -> Callable[..., bytes]:
    return write_query


@pytest.fixture(scope="session")
def read() -> Callable[[bytes], Any]:
    return read_message


@pytest.fixture(scope="session")
def make_pool() -> Callable[..., Pool]:
    def make(slots: int = 64, buffer: bytearray | None = None, key: bytes = KEY) -> Pool:
        memory = bytearray(buffer_size(slots)) if buffer is None else buffer
        return Pool(memoryview(memory), NET4, NET6, key, slots)

    return make
