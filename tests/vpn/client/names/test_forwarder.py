"""Queries that are relayed to the resolver they were meant for: untouched, bounded, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from dialogues import dialogue
from dns_lab import Behaviour, Servers, address, answer, ending, good, long, lying, silent

from dns.upstream import build_query
from shim.protocol.gate import Forward
from vpn.client.names import forwarder as module
from vpn.client.names.forwarder import Forwarder
from vpn.transport.base import PlainSockets

QUERY = build_query(0x1234, "Printer.corp.example", 1)
ANSWER, TRUNCATED = answer(QUERY), answer(QUERY, 0x0200)
SERVER = ip_address(address(1)).packed


def question(message: bytes = QUERY, *, server: bytes = SERVER, over_tcp: bool = False) -> Forward:
    return Forward(1, server, over_tcp, message)


@pytest.mark.parametrize(
    ("behaviour", "over_tcp", "answered"),
    [
        (good, False, ANSWER),
        (lying, False, ANSWER),
        (long, False, TRUNCATED),
        (good, True, ANSWER),
        (lying, True, ANSWER),
        (ending, True, b""),
    ],
)
def test_query_goes_out_as_it_came_and_so_does_its_answer(
    run: Callable, behaviour: Behaviour, over_tcp: bool, answered: bytes
) -> None:
    async def dialogue() -> None:
        async with Servers(behaviour) as servers:
            forwarder = Forwarder(PlainSockets(), servers.port)
            assert await forwarder.ask(question(over_tcp=over_tcp)) == answered
            (server,) = servers.servers
            assert server.queries == [QUERY]
            assert server.protocols == ["tcp" if over_tcp else "udp"]

    run(dialogue())


@pytest.mark.parametrize(
    "unanswerable",
    [
        pytest.param(question(b""), id="no message"),
        pytest.param(question(QUERY[:14]), id="question cut short"),
        pytest.param(question(server=b"\1\2\3"), id="no address"),
    ],
)
@dialogue(lambda: Servers(good), run="run")
async def test_what_cannot_be_asked_has_no_answer(servers: Servers, unanswerable: Forward) -> None:
    assert await Forwarder(PlainSockets(), servers.port).ask(unanswerable) == b""
    assert servers.servers[0].asked == []


@dialogue(lambda: Servers(silent), run="run")
async def test_silent_resolver_is_given_up(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    assert await Forwarder(PlainSockets(), servers.port).ask(question()) == b""


@dialogue(lambda: Servers(silent), run="run")
async def test_queries_at_once_are_bounded_and_room_comes_back(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 2)
    (server,) = servers.servers
    forwarder = Forwarder(PlainSockets(), servers.port)
    waiting = [asyncio.create_task(forwarder.ask(question())) for _ in range(2)]
    await server.until_asked(2)
    assert await forwarder.ask(question()) == b""
    assert len(server.asked) == 2
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    server.behaviour = good
    assert await forwarder.ask(question()) == ANSWER
