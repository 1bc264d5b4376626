"""D1, D3 and D6 against the live gate: hostile messages, DNS over TCP, and the pool of addresses.

app ─ queries to any resolver ─▶ gate        nothing of this leaves the machine
"""

from __future__ import annotations

import random
import socket
import struct
from ipaddress import ip_address, ip_network

import dnslib
import pytest
from test_shim_process import instance

from lab import Lab, services, tcp, until
from lab.addresses import ROUTER, TARGET
from lab.overlay import Overlay

POOL4, POOL6 = ip_network("198.18.0.0/15"), ip_network("fd6f:7670:6e00::/64")
RESOLVERS = pytest.mark.parametrize("resolver", [ROUTER.v4, TARGET.v6], ids=["IPv4", "IPv6"])


@pytest.fixture
def up(lab: Lab, overlay: Overlay) -> Overlay:
    overlay.up(overlay.serve(), "--dns", "virtual")
    return overlay


def query(name: str, rtype: str = "A", ident: int = 1) -> bytes:
    record = dnslib.DNSRecord.question(name, rtype)
    record.header.id = ident
    return bytes(record.pack())


def datagrams(lab: Lab, resolver: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    sock = lab.app.call(socket.socket, family, socket.SOCK_DGRAM)
    lab.app.call(sock.connect, (resolver, 53))
    sock.settimeout(5)
    return sock


def receive_message(stream: socket.socket) -> dnslib.DNSRecord:
    wanted = struct.unpack("!H", receive(stream, 2))[0]
    return dnslib.DNSRecord.parse(receive(stream, wanted))


def receive(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        assert part, "the gate closed the connection"
        data += part
    return data


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


# D1: hostile messages.

HEADER = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
QUESTION = b"\x00\x01\x00\x01"
LOOP = HEADER + b"\xc0\x0c" + QUESTION
CHAIN = HEADER + b"".join(struct.pack("!H", 0xC000 | (14 + 2 * n)) for n in range(1000)) + QUESTION
HOSTILE = {
    "empty": b"",
    "short": b"\x00" * 11,
    "answer": struct.pack("!HHHHHH", 7, 0x8180, 1, 0, 0, 0) + b"\x00" + QUESTION,
    "pointer to itself": LOOP,
    "cycle": HEADER + b"\xc0\x0e\xc0\x0c" + QUESTION,
    "chain of 1000": CHAIN,
    "label type 0x40": HEADER + b"\x41a\x00" + QUESTION,
    "label type 0x80": HEADER + b"\x81a\x00" + QUESTION,
    "name of 256": HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\x00" + QUESTION,
    "no question": struct.pack("!HHHHHH", 7, 0x0100, 0, 0, 0, 0),
    "two questions": struct.pack("!HHHHHH", 7, 0x0100, 2, 0, 0, 0) + b"\x01a\x00" + QUESTION,
    "65535 questions": struct.pack("!HHHHHH", 7, 0x0100, 65535, 0, 0, 0) + b"\x01a\x00" + QUESTION,
    "65535 records": struct.pack("!HHHHHH", 7, 0x0100, 1, 65535, 65535, 65535) + b"\x01a\x00",
}


def is_answered(sock: socket.socket) -> bool:
    """Send a query, and take everything that has come until its answer or silence."""
    sock.send(query("alive.example.com", ident=4242))
    sock.settimeout(0.5)
    try:
        while struct.unpack("!H", sock.recv(4096)[:2])[0] != 4242:
            pass
    except TimeoutError:
        return False
    return True


@RESOLVERS
def test_hostile_datagrams_are_answered_or_met_with_silence(
    lab: Lab, up: Overlay, resolver: str
) -> None:
    gate = instance(up.status()["pid"]).gate
    dice = random.Random(11)
    with datagrams(lab, resolver) as sock:
        for message in HOSTILE.values():
            sock.send(message)
        for _ in range(2000):
            sock.send(dice.randbytes(dice.randrange(1, 512)))
        for _ in range(500):
            broken = bytearray(query("www.example.com"))
            broken[dice.randrange(len(broken))] = dice.randrange(256)
            sock.send(broken)
        # So much so fast may have overrun a queue, as on any wire: ask again, as resolvers do.
        until(lambda: is_answered(sock), 20, "an answer after all that")
    assert instance(up.status()["pid"]).gate == gate


def test_hostile_messages_over_tcp_are_answered_or_end_the_connection(
    lab: Lab, up: Overlay
) -> None:
    gate = instance(up.status()["pid"]).gate
    for message in [*HOSTILE.values(), bytes(65535), CHAIN + bytes(65535 - len(CHAIN))]:
        with tcp.connect(lab.app, ROUTER.v4, 53) as stream:
            stream.settimeout(5)
            stream.sendall(framed(message) + framed(query("alive.example.com", ident=4242)))
            while receive_message(stream).header.id != 4242:
                pass
    assert instance(up.status()["pid"]).gate == gate


# D3: DNS over TCP.


@RESOLVERS
def test_two_queries_in_one_segment_have_two_answers(lab: Lab, up: Overlay, resolver: str) -> None:
    with tcp.connect(lab.app, resolver, 53) as stream:
        stream.sendall(
            framed(query("a.example.com", ident=1)) + framed(query("b.example.com", ident=2))
        )
        assert {receive_message(stream).header.id for _ in range(2)} == {1, 2}


@RESOLVERS
def test_query_one_byte_at_a_time_has_its_answer(lab: Lab, up: Overlay, resolver: str) -> None:
    with tcp.connect(lab.app, resolver, 53) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in framed(query("www.example.com", "AAAA")):
            stream.sendall(bytes([byte]))
        (record,) = receive_message(stream).rr
        assert ip_address(str(record.rdata)) in POOL6


def test_200_idle_connections_keep_nobody_out(lab: Lab, up: Overlay) -> None:
    idle = [tcp.connect(lab.app, ROUTER.v4, 53) for _ in range(200)]
    with tcp.connect(lab.app, ROUTER.v4, 53) as stream:
        stream.sendall(framed(query("www.example.com")))
        assert len(receive_message(stream).rr) == 1
    for stream in idle:
        stream.sendall(framed(query("www.example.com")))
        assert len(receive_message(stream).rr) == 1
        stream.close()


def test_more_connections_than_allowed_cost_the_idlest(lab: Lab, up: Overlay) -> None:
    first = tcp.connect(lab.app, ROUTER.v4, 53)
    others = [tcp.connect(lab.app, ROUTER.v4, 53) for _ in range(256)]
    first.settimeout(5)
    assert first.recv(1) == b""
    for stream in (first, *others):
        stream.close()


# D6: the pool.


def resolve(sock: socket.socket, name: str, rtype: str = "A") -> str:
    sock.send(query(name, rtype))
    (record,) = dnslib.DNSRecord.parse(sock.recv(4096)).rr
    return str(record.rdata)


def test_names_have_addresses_of_their_own_and_the_way_back(lab: Lab, up: Overlay) -> None:
    names = [f"host{number}.example.com" for number in range(1000)]
    with datagrams(lab, ROUTER.v4) as sock:
        found = {name: resolve(sock, name) for name in names}
        assert len(set(found.values())) == len(names)
        assert all(ip_address(address) in POOL4 for address in found.values())
        assert all(resolve(sock, name) == address for name, address in found.items())
        for name in names[::50]:
            back = ip_address(found[name]).reverse_pointer
            assert resolve(sock, back, "PTR") == f"{name}."


def test_address_survives_a_restart(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    found = set()
    for _ in range(2):
        overlay.up(endpoint, "--dns", "virtual")
        with datagrams(lab, ROUTER.v4) as sock:
            found.add((resolve(sock, "www.example.com"), resolve(sock, "www.example.com", "AAAA")))
        overlay.down()
    assert len(found) == 1


def test_flow_to_an_address_without_name_is_refused(lab: Lab, up: Overlay) -> None:
    for address in ("198.19.77.77", "fd6f:7670:6e00::4242"):
        assert tcp.outcome(lab.app, address, 80) == "ECONNREFUSED"
    assert up.status()["flows_opened"] == 0


def test_name_whose_host_cannot_be_reached_gives_its_own_error(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    overlay.up(overlay.serve(), "--dns", "virtual")
    with datagrams(lab, ROUTER.v4) as sock:
        nowhere = resolve(sock, "nothing.example.com")
    assert tcp.outcome(lab.app, nowhere, 80) == "EHOSTUNREACH"
