"""With a suffix, its names are the tunnel's; all others go where they went before, untouched.

app ─ queries ─▶ gate ─┬─ *.example.com ─▶ client ─ session ─▶ server ─▶ zone on the target
                       └─ others ────────▶ client ─ outer socket ─▶ the resolver that was asked
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import ip_address

import dnslib
import pytest

from lab import tcp
from lab.addresses import APP, ROUTER
from lab.ask import POOL4, datagrams, framed, hear, query, receive_message, resolve
from lab.host import Host
from lab.ways import Way

UP = pytest.mark.ways("up ours", "up sshd")
COOKIE = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08\x11\x12\x13\x14\x15\x16\x17\x18"
"""An OPT record of ours could have no such option (RFC 7873 §4)."""


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    return ("--route", "example.com")


def odd(name: str) -> bytes:
    """Return a query that nobody would write again as it is."""
    plain = query(name, "TXT", ident=4711)
    return plain[:10] + b"\0\1" + plain[12:] + COOKIE + b"behind the message"


def odd_answer(question: bytes) -> bytes:
    """Return an answer that holds octets of no meaning."""
    return question[:2] + b"\x85\x80" + question[4:] + b"\xff" * 600


def listener(host: Host, kind: socket.SocketKind, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = host.call(socket.socket, family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 53))
    sock.settimeout(15)
    return sock


@UP
@pytest.mark.fidelity("DNS: split by domain")
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_other_name_goes_to_the_resolver_it_was_meant_for_and_back_untouched(
    way: Way, family: int
) -> None:
    question = odd("www.elsewhere.test")
    with ExitStack() as stack:
        resolver = stack.enter_context(listener(way.lab.router, socket.SOCK_DGRAM, ROUTER[family]))
        asker = stack.enter_context(datagrams(way.app, ROUTER[family]))
        asker.send(question)
        got, address = resolver.recvfrom(4096)
        assert (got, address[0]) == (question, APP[family])
        resolver.sendto(odd_answer(got), address)
        assert asker.recv(4096) == odd_answer(question)

        server = stack.enter_context(listener(way.lab.router, socket.SOCK_STREAM, ROUTER[family]))
        server.listen()
        asking = stack.enter_context(tcp.connect(way.app, ROUTER[family], 53))
        asking.sendall(framed(question))
        accepted = stack.enter_context(server.accept()[0])
        assert accepted.recv(len(framed(question)), socket.MSG_WAITALL) == framed(question)
        accepted.sendall(framed(odd_answer(question)))
        size = len(framed(odd_answer(question)))
        assert asking.recv(size, socket.MSG_WAITALL) == framed(odd_answer(question))


@UP
def test_name_of_the_suffix_is_told_to_no_resolver_outside(way: Way) -> None:
    with listener(way.lab.router, socket.SOCK_DGRAM, ROUTER.v4) as resolver:
        with datagrams(way.app, ROUTER.v4) as asker:
            address = resolve(asker, "www.example.com")
            assert ip_address(address) in POOL4
            back = ip_address(address).reverse_pointer
            assert resolve(asker, back, "PTR") == "www.example.com."
            assert resolve(asker, "example.com", "MX") == "10 www.example.com."
            missing = hear(asker, query("nothing.example.com"))
            assert dnslib.RCODE[missing.header.rcode] == "NXDOMAIN"
            canary = hear(asker, query("use-application-dns.net"))
            assert dnslib.RCODE[canary.header.rcode] == "NXDOMAIN"
        with tcp.connect(way.app, ROUTER.v4, 53) as stream:
            stream.sendall(framed(query("www.example.com", "AAAA")))
            assert len(receive_message(stream).rr) == 1
        resolver.setblocking(False)
        with pytest.raises(BlockingIOError):
            resolver.recv(4096)


@UP
def test_resolver_that_was_silent_before_is_silent_now(way: Way) -> None:
    with (
        listener(way.lab.router, socket.SOCK_DGRAM, ROUTER.v4) as resolver,
        datagrams(way.app, ROUTER.v4) as asker,
    ):
        asker.send(query("a.elsewhere.test", ident=1))
        asker.send(query("b.elsewhere.test", ident=2))
        for question, address in [resolver.recvfrom(4096) for _ in range(2)]:
            if question[:2] == b"\0\2":
                resolver.sendto(odd_answer(question), address)
        assert asker.recv(4096)[:2] == b"\0\2"
        asker.setblocking(False)
        with pytest.raises(BlockingIOError):
            asker.recv(4096)
