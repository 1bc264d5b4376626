"""The sockets of the stub client, with servers that are played on the loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest
from dialogues import dialogue
from dns_lab import Servers, address, answer, ending, good, long, lying, silent

from dns.exchange import Exchange
from dns.upstream import build_query
from vpn import stub_resolver
from vpn.stub_resolver import ConnectionEndedError

QUERY = build_query(0, "app.example", 16)
ANSWER = answer(QUERY)


async def ask(servers: Servers, *more: str, timeout_s: float = 20.0, sends: int = 1) -> bytes:
    """Ask addresses where nobody is, and then the servers."""
    addresses = [*more, *servers.addresses]
    idents = stub_resolver.random_ident
    exchange = Exchange(QUERY, addresses, timeout_s, sends=sends, idents=idents)
    return await stub_resolver.run(exchange, stub_resolver.open_socket, servers.port)


@dialogue(lambda: Servers(lying), run="run")
async def test_answer_is_read_past_strays(servers: Servers) -> None:
    assert await ask(servers) == ANSWER
    assert servers.servers[0].protocols == ["udp"]


@dialogue(lambda: Servers(long), run="run")
async def test_truncated_answer_is_asked_for_again_over_tcp(servers: Servers) -> None:
    assert await ask(servers) == ANSWER
    assert servers.servers[0].protocols == ["udp", "tcp"]


@dialogue(lambda: Servers(silent), run="run")
async def test_silent_server_is_sent_the_query_again_from_the_same_port(servers: Servers) -> None:
    with pytest.raises(TimeoutError):
        await ask(servers, timeout_s=0.05, sends=3)
    (server,) = servers.servers
    await server.until_asked(3)
    assert server.protocols == ["udp"] * 3
    assert len({*server.asked, *server.queries}) == 2


@dialogue(lambda: Servers(silent, good), run="run")
async def test_next_server_is_asked_from_another_port(servers: Servers) -> None:
    assert await ask(servers, timeout_s=1.0) == ANSWER
    one, two = servers.servers
    assert one.asked != two.asked


@dialogue(lambda: Servers(good), run="run")
async def test_server_that_is_not_there_costs_no_time(servers: Servers) -> None:
    assert await ask(servers, address(9)) == ANSWER


@dialogue(lambda: Servers(), run="run")
async def test_nobody_there_is_the_error_of_the_socket(servers: Servers) -> None:
    with pytest.raises(ConnectionRefusedError):
        await ask(servers, address(9))


@dialogue(lambda: Servers(ending), run="run")
async def test_connection_that_ends_is_an_error_of_its_own(servers: Servers) -> None:
    with pytest.raises(ConnectionEndedError):
        await ask(servers)


@dialogue(lambda: Servers(), run="run")
async def test_socket_that_cannot_be_opened_is_an_error(servers: Servers) -> None:
    opened: list[tuple[int, int]] = []

    async def refuse(family: int, kind: int) -> socket.socket:
        opened.append((family, kind))
        raise PermissionError

    exchange = Exchange(QUERY, ["192.0.2.1", "2001:db8::1"], 1.0)
    with pytest.raises(PermissionError):
        await stub_resolver.run(exchange, refuse)
    assert opened == [(socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM)]


@dialogue(lambda: Servers(good), run="run")
async def test_socket_that_takes_too_long_to_open_is_opened_again(servers: Servers) -> None:
    opened: list[int] = []

    async def slow_at_first(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        opened.append(kind)
        if len(opened) == 1:
            await asyncio.sleep(30)
        return await stub_resolver.open_socket(family, kind)

    exchange = Exchange(QUERY, servers.addresses, 1.0, sends=2)
    assert await stub_resolver.run(exchange, slow_at_first, servers.port) == ANSWER
    assert len(opened) == 2


@dialogue(lambda: Servers(silent), run="run")
async def test_sockets_are_closed_also_when_the_asker_is_gone(servers: Servers) -> None:
    opened: list[socket.socket] = []

    async def remember(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        opened.append(await stub_resolver.open_socket(family, kind))
        return opened[-1]

    exchange = Exchange(QUERY, [address(9), *servers.addresses], 20.0)
    asking = asyncio.create_task(stub_resolver.run(exchange, remember, servers.port))
    await servers.servers[0].until_asked(1)
    assert [one.fileno() < 0 for one in opened] == [True, False]
    asking.cancel()
    await asyncio.wait([asking])
    assert [one.fileno() < 0 for one in opened] == [True, True]
