"""The addresses of the server outlive the resolver that gave them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from vpn.client import places as module
from vpn.client.places import Places
from vpn.transport.base import Address


def test_resolves_once_and_again_only_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []
    found = [(socket.AF_INET, ("198.51.100.2", 22))]

    async def resolve(address: Address, kind: socket.SocketKind) -> object:
        asked.append(address)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return found

    monkeypatch.setattr(module, "resolve", resolve)

    async def dialogue() -> None:
        places, address = Places(), Address("vpn.example.net", 22)
        with pytest.raises(socket.gaierror):
            await places.resolve(address, socket.SOCK_STREAM)
        for _ in range(3):
            assert await places.resolve(address, socket.SOCK_STREAM) == found
        assert len(asked) == 2

    asyncio.run(dialogue())
