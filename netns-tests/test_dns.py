"""D1, D2, D3, D5 and D6 as octets: hostile messages, EDNS, TCP, special names, and the pool.

app ─ queries to any resolver ─▶ gate ─▶ client ─ session ─▶ server ─▶ zone on the target

What can be answered here is not asked there, and what goes wrong there costs nobody else.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import dnslib
import pytest

from lab import services, tcp, until
from lab.addresses import ROUTER, TARGET
from lab.ask import (
    POOL4,
    POOL6,
    addresses_of_their_own,
    datagrams,
    framed,
    hear,
    query,
    receive_message,
    resolve,
)
from lab.pranks import HUGE, LIE, PRANKS
from lab.sweeper import members
from lab.ways import Way

RESOLVERS = (ROUTER.v4, TARGET.v6)
"""Nobody listens there, or it is out of reach: every resolver is the gate."""
HOSTS = 200
NEGATIVE_S = 2


@pytest.fixture(scope="module")
def zone() -> str:
    words = [f'"{number:0200}"' for number in range(8)]
    texts = f"medium IN TXT {' '.join(words[:4])}\nlong IN TXT {' '.join(words)}\n"
    hosts = "".join(f"host{number} IN A {TARGET.v4}\n" for number in range(HOSTS))
    own = f'slow IN TXT "at last"\nnewer IN TXT "here"\n{texts}{hosts}'
    return services.ZONE.replace("86400 60", f"86400 {NEGATIVE_S}") + own


def gates(way: Way) -> list[int]:
    """Return the processes of the gate: it, and its supervisor."""
    return sorted(one.pid for one in members(way.lab.token) if " -m shim.gate" in one.command)


def cpu_s(pids: list[int]) -> float:
    """Return the time that processes have had on a processor (schedstat: ns)."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 for pid in pids)


# D1: hostile messages.


def header(questions: int = 1, records: int = 0, flags: int = 0x0100) -> bytes:
    return struct.pack("!6H", 7, flags, questions, records, records, records)


QUESTION = b"\x00\x01\x00\x01"
LOOP = header() + b"\xc0\x0c" + QUESTION
CHAIN = header() + b"".join(struct.pack("!H", 0xC000 | (14 + 2 * n)) for n in range(1000))
HOSTILE = {
    "empty": b"",
    "short": b"\x00" * 11,
    "answer": header(flags=0x8180) + b"\x00" + QUESTION,
    "pointer to itself": LOOP,
    "cycle": header() + b"\xc0\x0e\xc0\x0c" + QUESTION,
    "chain of 1000": CHAIN + QUESTION,
    "label type 0x40": header() + b"\x41a\x00" + QUESTION,
    "label type 0x80": header() + b"\x81a\x00" + QUESTION,
    "name of 256": header() + (b"\x3f" + b"a" * 63) * 4 + b"\x00" + QUESTION,
    "no question": header(0),
    "two questions": header(2) + (b"\x01a\x00" + QUESTION) * 2,
    "65535 questions": header(65535) + b"\x01a\x00" + QUESTION,
    "65535 records": header(1, 65535) + b"\x01a\x00",
}
WHOLE = [bytes(65535), CHAIN + bytes(65535 - len(CHAIN)), header() + b"\x01a" * 32761]
MAX_CPU_S = 0.005


def is_answered(sock: socket.socket) -> bool:
    """Send a query, and take everything that has come until its answer or silence."""
    sock.send(query("localhost", ident=4242))
    sock.settimeout(0.5)
    try:
        while struct.unpack("!H", sock.recv(4096)[:2])[0] != 4242:
            pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("resolver", RESOLVERS, ids=["IPv4", "IPv6"])
def test_hostile_datagrams_are_answered_or_met_with_silence(way: Way, resolver: str) -> None:
    before = gates(way)
    dice = random.Random(11)
    fuzz = [dice.randbytes(dice.randrange(1, 512)) for _ in range(2000)]
    for _ in range(500):
        broken = bytearray(query("localhost"))
        broken[dice.randrange(len(broken))] = dice.randrange(256)
        fuzz.append(bytes(broken))
    spent_s = cpu_s(before)
    with datagrams(way.app, resolver) as sock:
        for message in (*HOSTILE.values(), *fuzz):
            sock.send(message)
        # So much so fast may have overrun a queue, as on any wire: ask again, as resolvers do.
        until(lambda: is_answered(sock), 20, "an answer after all that")
    assert cpu_s(before) - spent_s < MAX_CPU_S * (len(HOSTILE) + len(fuzz))
    assert gates(way) == before


def test_hostile_messages_over_tcp_are_answered_or_end_the_connection(way: Way) -> None:
    before = gates(way)

    def cost_s() -> float:
        spent_s = cpu_s(before)
        for message in [*HOSTILE.values(), *WHOLE]:
            with tcp.connect(way.app, ROUTER.v4, 53) as stream:
                stream.sendall(framed(message) + framed(query("localhost", ident=4242)))
                while receive_message(stream).header.id != 4242:
                    pass
        return cpu_s(before) - spent_s

    # What another machine on the same core takes counts as ours, at times.
    assert any(cost_s() < 2 * MAX_CPU_S * len([*HOSTILE, *WHOLE]) for _ in range(3))
    assert gates(way) == before


# D2: EDNS.


def with_opt(name: str, payload: int, version: int = 0, count: int = 1) -> bytes:
    """Return a query for TXT with OPT records."""
    plain = query(name, "TXT")
    opt = b"\0\0\x29" + payload.to_bytes(2) + bytes((0, version, 0, 0)) + b"\0\0"
    return plain[:10] + count.to_bytes(2) + plain[12:] + opt * count


def test_edns_says_how_much_is_taken_and_is_answered_in_kind(way: Way) -> None:
    with datagrams(way.app, ROUTER.v4) as sock:
        for name, fits in (("medium.example.com", (1232, 65535)), ("long.example.com", ())):
            assert hear(sock, query(name, "TXT")).header.tc == 1
            for payload in (0, 512, 1232, 65535):
                got = hear(sock, with_opt(name, payload))
                is_whole = payload in fits
                assert (got.header.tc, len(got.rr)) == (not is_whole, is_whole), payload
                assert [one.rtype for one in got.ar] == [dnslib.QTYPE.OPT]
        assert hear(sock, query("www.example.com", "TXT")).ar == []
        bad = hear(sock, with_opt("long.example.com", 1232, version=1))
        assert (bad.ar[0].ttl >> 24 << 4 | bad.header.rcode) == 16
        assert hear(sock, with_opt("long.example.com", 1232, count=2)).header.rcode == 1
    with tcp.connect(way.app, ROUTER.v4, 53) as stream:
        stream.sendall(framed(query("long.example.com", "TXT")))
        whole = receive_message(stream)
    assert (whole.header.tc, len(whole.rr), whole.ar) == (0, 1, [])


# D3: DNS over TCP.


@pytest.mark.parametrize("resolver", RESOLVERS, ids=["IPv4", "IPv6"])
def test_queries_over_tcp_are_answered_however_they_come(way: Way, resolver: str) -> None:
    first, second = query("www.example.com", "AAAA", ident=1), query("example.com", "MX", ident=2)
    with tcp.connect(way.app, resolver, 53) as stream:
        stream.sendall(framed(first) + framed(LOOP) + framed(second))
        heard = {got.header.id: got for got in (receive_message(stream) for _ in range(3))}
    assert [heard[one].header.rcode for one in (1, 2, 7)] == [0, 0, 1]
    assert [len(heard[one].rr) for one in (1, 2, 7)] == [1, 1, 0]
    with tcp.connect(way.app, resolver, 53) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in framed(first):
            stream.sendall(bytes([byte]))
        (record,) = receive_message(stream).rr
        assert ip_address(str(record.rdata)) in POOL6


def test_200_idle_connections_keep_nobody_out(way: Way) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(tcp.connect(way.app, ROUTER.v4, 53)) for _ in range(200)]
        one_more = stack.enter_context(tcp.connect(way.app, ROUTER.v4, 53))
        for stream in (one_more, *idle):
            stream.sendall(framed(query("www.example.com")))
            assert len(receive_message(stream).rr) == 1


def test_more_connections_than_allowed_cost_the_idlest(way: Way) -> None:
    with ExitStack() as stack:
        first, *_ = (stack.enter_context(tcp.connect(way.app, ROUTER.v4, 53)) for _ in range(257))
        assert first.recv(1) == b""


# D5: special names.

SPECIAL = ["printer.local", "x.onion", "x.invalid", "x.alt", "use-application-dns.net"]
SPECIAL += ["localhost", "a.localhost", "_dns.resolver.arpa", "search.overlay-vpn.internal"]


@pytest.mark.fidelity("DoT/DoH of clients seen or blocked", cell="◐ canary answered")
def test_special_names_are_ours_to_answer_and_others_are_asked_as_they_are(way: Way) -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 49, "example.com"])
    with datagrams(way.app, ROUTER.v4) as sock:
        for name in SPECIAL:
            for rtype in ("A", "TXT", "MX"):
                got = hear(sock, query(name, rtype))
                addresses = {str(one.rdata) for one in got.rr}
                is_loopback = name.endswith("localhost") and rtype == "A"
                assert addresses == ({"127.0.0.1"} if is_loopback else set())
        canary = hear(sock, query("use-application-dns.net"))
        assert dnslib.RCODE[canary.header.rcode] == "NXDOMAIN"
        for name in ("wWw.eXample.Com", "WWW.EXAMPLE.COM"):
            (record,) = hear(sock, query(name)).rr
            assert str(record.rname) == f"{name}."
        for name in ("xn--bcher-kva.example.com", longest, "short"):
            for rtype in ("A", "MX"):
                got = hear(sock, query(name, rtype))
                assert dnslib.RCODE[got.header.rcode] == "NXDOMAIN"
    asked = way.names.stdout.lower()
    assert not [name for name in SPECIAL if f" {name}." in asked]
    for name in ("xn--bcher-kva.example.com", longest, "short"):
        assert f"asked mx {name}." in asked


# D6: the pool.


@pytest.mark.fidelity("DNS: fake-IP / virtual")
def test_names_have_addresses_of_their_own_and_the_way_back(way: Way) -> None:
    names = [f"host{number}.example.com" for number in range(HOSTS)]
    with datagrams(way.app, ROUTER.v4) as sock:
        addresses_of_their_own(sock, names)


def test_flow_to_an_address_without_name_is_refused(way: Way) -> None:
    opened = None if way.is_run else way.overlay.status()["flows_opened"]
    for address in ("198.19.77.77", "fd6f:7670:6e00::4242"):
        assert tcp.outcome(way.app, address, 80) == "ECONNREFUSED"
    if not way.is_run:
        assert way.overlay.status()["flows_opened"] == opened


# The far end: its answers are shared and kept, its lies and silences are its own.


def test_equal_questions_are_one_and_nothing_there_is_kept_for_a_while(way: Way) -> None:
    with ExitStack() as stack:
        askers = [stack.enter_context(datagrams(way.app, ROUTER.v4)) for _ in range(50)]
        for asker in askers:
            asker.send(query("slow.example.com", "TXT"))
        told = [dnslib.DNSRecord.parse(asker.recv(4096)).rr for asker in askers]
        assert [[str(one.rdata) for one in rr] for rr in told] == [['"at last"']] * 50
    assert way.names.stdout.count("asked TXT slow.example.com.") == 1

    began_s, asked = time.monotonic(), 0
    with datagrams(way.app, ROUTER.v4) as sock:
        while not (got := hear(sock, query("newer.example.com", "TXT"))).rr:
            asked += 1
            assert dnslib.RCODE[got.header.rcode] == "NXDOMAIN"
            assert [one.ttl <= NEGATIVE_S for one in got.auth] == [True]
    assert time.monotonic() - began_s > NEGATIVE_S - 1
    assert way.names.stdout.count("asked TXT newer.example.com.") == 2 < asked


FATES = {
    "servfail": ("SERVFAIL", 0),
    "refused": ("REFUSED", 0),
    "notimp": ("NOTIMP", 0),
    "formerr": ("SERVFAIL", 0),
    "garbage": ("SERVFAIL", 0),
    "empty": ("SERVFAIL", 0),
    "another": ("SERVFAIL", 0),
    "more": ("NOERROR", 1),
    "circle": ("NOERROR", 0),
    "cut": ("SERVFAIL", 0),
    "huge": ("NOERROR", HUGE),
}


@pytest.fixture
def impatient(way: Way) -> Iterator[None]:
    """The server gives up on a resolver after four seconds."""
    conf = way.lab.server.path("/etc/resolv.conf")
    before = conf.read_text()
    conf.write_text(f"{before}options timeout:4 attempts:1\n")
    yield
    conf.write_text(before)


@pytest.mark.usefixtures("impatient")
def test_far_end_that_lies_or_is_silent_harms_nobody_else(way: Way) -> None:
    with ExitStack() as stack:

        def asking(kind: str, rtype: str) -> socket.socket:
            stream = stack.enter_context(tcp.connect(way.app, ROUTER.v4, 53, 30))
            stream.sendall(framed(query(f"one.{kind}.{PRANKS}", rtype)))
            return stream

        silent = asking("silent", "TXT")
        asked = [(kind, rtype, asking(kind, rtype)) for kind in FATES for rtype in ("TXT", "A")]
        honest = stack.enter_context(datagrams(way.app, ROUTER.v4))
        assert ip_address(resolve(honest, "v4only.example.com")) in POOL4
        for kind, rtype, stream in asked:
            got = receive_message(stream)
            rcode, count = FATES[kind]
            if rtype == "TXT":
                assert dnslib.RCODE[got.header.rcode] == rcode, kind
                told = [one for one in got.rr if one.rtype == dnslib.QTYPE.TXT]
                assert len(told) == count, kind
            assert got.header.rcode == 0 or got.rr == []
            addresses = [str(one.rdata) for one in got.rr if one.rtype == dnslib.QTYPE.A]
            assert all(ip_address(one) in POOL4 for one in addresses), kind
            assert LIE not in str(got), kind
        if way.is_ours:
            assert dnslib.RCODE[receive_message(silent).header.rcode] == "SERVFAIL"


@pytest.mark.ways("up ours", "run ours")
def test_more_silent_names_than_are_asked_at_once_leave_room_for_others(way: Way) -> None:
    with datagrams(way.app, ROUTER.v4) as silent, datagrams(way.app, ROUTER.v4) as honest:
        for rtype in ("TXT", "A"):
            for number in range(200):
                silent.send(query(f"{rtype}{number}.silent.{PRANKS}", rtype))
        for question in (query("medium.example.com", "MX"), query("git.example.com")):
            # So much so fast may have overrun a queue, as on any wire: ask again.
            until(partial(is_told, honest, question), 20, "an answer beside all those")


def is_told(sock: socket.socket, question: bytes) -> bool:
    sock.settimeout(5)
    with suppress(TimeoutError):
        return bool(hear(sock, question).header.rcode == 0)
    return False
