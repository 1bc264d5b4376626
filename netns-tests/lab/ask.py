"""Questions to a resolver as octets, and what comes back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import dnslib

from lab.host import Host

POOL4, POOL6 = ip_network("198.18.0.0/15"), ip_network("fd6f:7670:6e00::/64")


def query(name: str, rtype: str = "A", ident: int = 1) -> bytes:
    """Return a query, without EDNS."""
    record = dnslib.DNSRecord.question(name, rtype)
    record.header.id = ident
    return bytes(record.pack())


def datagrams(host: Host, resolver: str) -> socket.socket:
    """Return a UDP socket of a host, connected to a resolver."""
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    sock = host.call(socket.socket, family, socket.SOCK_DGRAM)
    host.call(sock.connect, (resolver, 53))
    sock.settimeout(15)
    return sock


def hear(sock: socket.socket, wire: bytes) -> dnslib.DNSRecord:
    """Send a datagram and return the next one, which is its answer."""
    sock.send(wire)
    answer = dnslib.DNSRecord.parse(sock.recv(65535))
    assert answer.header.id == int.from_bytes(wire[:2])
    return answer


def resolve(sock: socket.socket, name: str, rtype: str = "A") -> str:
    """Return the one record of an answer."""
    (record,) = hear(sock, query(name, rtype)).rr
    return str(record.rdata)


def resolve_all(sock: socket.socket, questions: Sequence[tuple[str, str]]) -> list[str]:
    """Return the one record that answers each name and type; 50 are asked at a time."""
    found = [""] * len(questions)
    for start in range(0, len(questions), 50):
        asked = range(start, min(start + 50, len(questions)))
        for ident in asked:
            sock.send(query(*questions[ident], ident=ident))
        for _ in asked:
            answer = dnslib.DNSRecord.parse(sock.recv(4096))
            (record,) = answer.rr
            found[answer.header.id] = str(record.rdata)
    return found


def framed(message: bytes) -> bytes:
    """Return a message as it is sent over TCP (RFC 1035 §4.2.2)."""
    return struct.pack("!H", len(message)) + message


def receive_message(stream: socket.socket) -> dnslib.DNSRecord:
    """Return the next message that comes over TCP."""
    size = int.from_bytes(_receive(stream, 2))
    return dnslib.DNSRecord.parse(_receive(stream, size))


def _receive(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        assert part, "the connection was closed"
        data += part
    return data


def addresses_of_their_own(sock: socket.socket, names: Sequence[str]) -> list[str]:
    """Resolve names, forth and back and again; their addresses, each different and of the pool."""
    questions = [(name, "A") for name in names]
    addresses = resolve_all(sock, questions)
    assert len(set(addresses)) == len(names)
    assert all(ip_address(address) in POOL4 for address in addresses)
    assert resolve_all(sock, questions) == addresses
    back = [(ip_address(address).reverse_pointer, "PTR") for address in addresses]
    assert resolve_all(sock, back) == [f"{name}." for name in names]
    return addresses
