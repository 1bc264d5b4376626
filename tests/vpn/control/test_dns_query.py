"""A stub resolver against real sockets of the loopback device."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dnslib
import pytest

from dns import framing
from dns.names import parse_text
from dns.presentation import show
from dns.wire import WireError
from vpn.control import dns_query

LABELS = parse_text("Www.example.com")
Respond = Callable[[bytes], list[bytes]]


class Server:
    """Answers one datagram after another, and the same over TCP, each with a function's results."""

    def __init__(self, over_udp: Respond, over_tcp: Respond) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.asked: list[str] = []
        self.over_udp, self.over_tcp = over_udp, over_tcp
        for work in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=work, daemon=True).start()

    def _serve_udp(self) -> None:
        while True:
            query, where = self.udp.recvfrom(4096)
            self.asked.append("udp")
            for answer in self.over_udp(query):
                self.udp.sendto(answer, where)

    def _serve_tcp(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            with sock:
                self.asked.append("tcp")
                query = sock.recv(4096)[2:]
                for answer in self.over_tcp(query):
                    sock.sendall(framing.frame(answer))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def start(over_udp: Respond, over_tcp: Respond = lambda _: []) -> Server:
        server = Server(over_udp, over_tcp)
        monkeypatch.setattr(dns_query, "_PORT", server.port)
        return server

    return start


def answer(query: bytes, *, ident: int | None = None, tc: int = 0, text: str = "hello") -> bytes:
    reply = dnslib.DNSRecord.parse(query).reply()
    reply.header.tc = tc
    if ident is not None:
        reply.header.id = ident
    reply.add_answer(*dnslib.RR.fromZone(f'Www.example.com. 5 IN TXT "{text}"'))
    return bytes(reply.pack())


def test_answer_over_udp_is_read_past_those_that_are_not_ours(
    serve: Callable[..., Server],
) -> None:
    def respond(query: bytes) -> list[bytes]:
        wrong = int.from_bytes(query[:2]) ^ 1
        return [b"", b"junk", answer(query, ident=wrong, text="wrong"), answer(query)]

    server = serve(respond)
    reply, over_tcp = dns_query.ask("127.0.0.1", LABELS, 16)
    assert (list(map(show, reply.answers)), over_tcp) == (
        ['Www.example.com. 5 IN TXT "hello"'],
        False,
    )
    assert server.asked == ["udp"]


def test_answer_that_is_cut_short_is_asked_for_again_over_tcp(
    serve: Callable[..., Server],
) -> None:
    server = serve(lambda query: [answer(query, tc=1)], lambda query: [answer(query, text="long")])
    reply, over_tcp = dns_query.ask("127.0.0.1", LABELS, 16)
    assert ("long" in show(reply.answers[0]), over_tcp) == (True, True)
    assert server.asked == ["udp", "tcp"]


def test_connection_that_ends_without_an_answer_is_an_error(serve: Callable[..., Server]) -> None:
    serve(lambda query: [answer(query, tc=1)])
    with pytest.raises(WireError, match="without an answer"):
        dns_query.ask("127.0.0.1", LABELS, 16)


def test_server_that_is_silent_is_asked_again_and_given_up(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_query, "TIMEOUT_S", 0.05)
    server = serve(lambda _: [])
    with pytest.raises(TimeoutError):
        dns_query.ask("127.0.0.1", LABELS, 16)
    until_s = time.monotonic() + 5
    while len(server.asked) < dns_query.TRIES and time.monotonic() < until_s:
        time.sleep(0.01)
    assert len(server.asked) == dns_query.TRIES


def test_port_where_nobody_listens_is_an_error(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(dns_query, "_PORT", port)
    with pytest.raises(ConnectionRefusedError):
        dns_query.ask("127.0.0.1", LABELS, 16)


def test_first_server_of_the_file_is_the_one(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert dns_query.server_of(str(file)) == "127.0.0.1"
    file.write_text("nameserver 192.0.2.53\nnameserver 192.0.2.54\n")
    assert dns_query.server_of(str(file)) == "192.0.2.53"
    assert dns_query.is_loopback("127.0.0.53")
    assert not dns_query.is_loopback("192.0.2.53")
