"""The addresses of the server outlive the resolver that gave them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Sequence

import pytest

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


async def _result(asked: Awaitable[Sequence[tuple[object, object]]]) -> list[object]:
    return [name for _, name in await asked]
