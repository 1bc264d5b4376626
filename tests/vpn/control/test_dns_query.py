"""`overlay-vpn dns query` asks as an application does; the server is played on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from dns_lab import Behaviour, Servers, address, answer, ending, long, lying, silent

from dns.names import parse_text
from dns.reply import Reply
from dns.wire import WireError
from vpn import stub_resolver
from vpn.control import dns_query

LABELS = parse_text("Www.example.com")
Ask = Callable[[Behaviour], tuple[Reply, bool]]


def unreadable(query: bytes, over_tcp: bool) -> list[bytes]:
    """An answer whose only record is cut short."""
    return [answer(query, records=b"\xc0\x0c")]


@pytest.fixture
def asked() -> list[tuple[str, bytes]]:
    """What the server has been asked: protocols and queries."""
    return []


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, bytes]]) -> Ask:
    """Ask a server with such a behaviour."""

    async def asking(behaviour: Behaviour) -> tuple[Reply, bool]:
        async with Servers(behaviour) as servers:
            at_port = partial(stub_resolver.run, port=servers.port)
            monkeypatch.setattr(stub_resolver, "run", at_port)
            try:
                return await asyncio.to_thread(dns_query.ask, address(1), LABELS, 16)
            finally:
                (server,) = servers.servers
                asked.extend(zip(server.protocols, server.queries, strict=True))

    return lambda behaviour: asyncio.run(asking(behaviour))


def test_answer_over_udp_is_read_past_those_that_are_not_ours(
    ask: Ask, asked: list[tuple[str, bytes]]
) -> None:
    reply, over_tcp = ask(lying)
    assert (reply.rcode_name, over_tcp) == ("NOERROR", False)
    ((protocol, query),) = asked
    assert protocol == "udp"
    assert b"\3Www\7example\3com\0\0\x10\0\1" in query
    assert query.endswith(b"\0\0\x29\x04\xd0" + bytes(6))


def test_answer_that_is_cut_short_is_asked_for_again_over_tcp(
    ask: Ask, asked: list[tuple[str, bytes]]
) -> None:
    reply, over_tcp = ask(long)
    assert (reply.rcode_name, over_tcp) == ("NOERROR", True)
    assert [protocol for protocol, _ in asked] == ["udp", "tcp"]


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(ending, "the connection ended without an answer"), (unreadable, "cut short")],
)
def test_answer_that_is_missing_or_cannot_be_read_is_none(
    ask: Ask, behaviour: Behaviour, words: str
) -> None:
    with pytest.raises(WireError, match=words):
        ask(behaviour)


def test_server_that_is_silent_is_asked_again_and_given_up(
    ask: Ask, asked: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_query, "TIMEOUT_S", 0.1)
    with pytest.raises(TimeoutError):
        ask(silent)
    assert [protocol for protocol, _ in asked] == ["udp"] * dns_query.TRIES


def test_port_where_nobody_listens_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    at_port = partial(stub_resolver.run, port=Servers().port)
    monkeypatch.setattr(stub_resolver, "run", at_port)
    with pytest.raises(ConnectionRefusedError):
        dns_query.ask(address(1), LABELS, 16)


def test_first_server_of_the_file_is_the_one(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert dns_query.server_of(str(file)) == "127.0.0.1"
    file.write_text("nameserver 192.0.2.53\nnameserver 192.0.2.54\n")
    assert dns_query.server_of(str(file)) == "192.0.2.53"
    assert dns_query.is_loopback("127.0.0.53")
    assert not dns_query.is_loopback("192.0.2.53")
