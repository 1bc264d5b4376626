"""The addresses of the server outlive the resolver that gave them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from dns.codes import RRType
from dns.exchange import Ask, Exchange
from dns.names import to_text, to_wire
from dns.records import Record
from dns.upstream import Answer, Outcome, write_answer
from dns.wire import read_question
from vpn import stub_resolver
from vpn.client.session import server_address as module
from vpn.client.session.server_address import ServerAddress
from vpn.transport.base import Address, OuterSockets, PlainSockets


def test_resolves_once_and_again_only_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []
    found = [(socket.AF_INET, ("198.51.100.2", 22))]

    async def resolve(address: Address, kind: socket.SocketKind) -> object:
        asked.append(address)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return found

    async def nobody(name: str, sockets: OuterSockets) -> list[str]:
        return []

    monkeypatch.setattr(module, "resolve", resolve)
    monkeypatch.setattr(module, "addresses_of", nobody)

    async def dialogue() -> None:
        server, address = ServerAddress(PlainSockets()), Address("vpn.example.net", 22)
        with pytest.raises(socket.gaierror):
            await server.resolve(address, socket.SOCK_STREAM)
        for _ in range(3):
            assert await server.resolve(address, socket.SOCK_STREAM) == found
        assert len(asked) == 2

    asyncio.run(dialogue())


def test_where_the_resolver_is_cut_off_its_upstreams_are_asked_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(address: Address, kind: socket.SocketKind) -> object:
        if address.host == "vpn.example.net":
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, (address.host, address.port))]

    async def two(name: str, sockets: OuterSockets) -> list[str]:
        return ["198.51.100.2", "198.51.100.3"]

    monkeypatch.setattr(module, "resolve", resolve)
    monkeypatch.setattr(module, "addresses_of", two)
    asked = ServerAddress(PlainSockets()).resolve(
        Address("vpn.example.net", 22), socket.SOCK_STREAM
    )
    assert asyncio.run(_result(asked)) == [("198.51.100.2", 22), ("198.51.100.3", 22)]


def test_upstream_resolvers_are_asked_for_both_families_until_one_has_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first file is missing, and this machine itself is not asked."""
    asked: list[tuple[str, int]] = []
    found = {RRType.A: b"\xc6\x33\x64\x02", RRType.AAAA: bytes(15) + b"\2"}

    async def run(exchange: Exchange, open_socket: object) -> bytes:
        order = exchange.start(0.0)
        assert isinstance(order, Ask)
        labels, rtype, *_ = read_question(order.octets)
        asked.append((order.server, rtype))
        if order.server == "192.0.2.1":
            raise TimeoutError
        records = (Record(to_wire(labels), rtype, 1, 60, found[RRType(rtype)]),)
        return write_answer(Answer(Outcome.FOUND, 60, records), to_text(labels), rtype)

    path = tmp_path / "resolv.conf"
    path.write_text("".join(f"nameserver {one}\n" for one in ("127.0.0.53", "192.0.2.1", "::2")))
    monkeypatch.setattr(module, "FILES", (str(tmp_path / "missing"), str(path)))
    monkeypatch.setattr(stub_resolver, "run", run)
    addresses = asyncio.run(module.addresses_of("vpn.example.net", PlainSockets()))
    assert addresses == ["198.51.100.2", "::2"]
    assert asked == [(server, rtype) for server in ("192.0.2.1", "::2") for rtype in found]


async def _result(asked: Awaitable[Sequence[tuple[object, object]]]) -> list[object]:
    return [name for _, name in await asked]
