"""A server from start to close."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from ssh_lab import (
    LOOPBACK,
    Keys,
    destination,
    echo,
    enter,
    flow_to,
    our_server,
)
from transport_lab import SEED, played_on_each_loop

from vpn.errors import TransportError
from vpn.protocol.failure import Failure, OpenFailed
from vpn.server.app import Server
from vpn.ssh.login.authorized_files import AuthorizedFiles
from vpn.ssh.session.client import Session
from vpn.transport.base import Address, Listening
from vpn.transport.tcp import TcpTransport


@contextlib.asynccontextmanager
async def a_flow(
    keys: Keys,
) -> AsyncIterator[tuple[Server, Session, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server, a session with it, and the ends of a flow to a destination that echoes."""
    async with our_server(keys, TcpTransport()) as (server, used), destination(echo) as port:
        session = await enter(used, server.address, keys)
        reader, writer, _ = await flow_to(session, port)
        yield server, session, reader, writer


@played_on_each_loop
async def test_port_is_told_and_used_once(keys: Keys) -> None:
    async with our_server(keys, TcpTransport()) as (server, used):
        assert server.address.port != 0
        with pytest.raises(TransportError):
            await Server.start(
                used, Listening(server.address, SEED), AuthorizedFiles([keys.authorized])
            )


@played_on_each_loop
async def test_draining_lets_flows_end_and_nobody_in(keys: Keys) -> None:
    async with a_flow(keys) as (server, session, reader, writer):
        closing = asyncio.create_task(server.close(drain_s=60.0))
        await asyncio.sleep(0.05)
        with pytest.raises(OpenFailed) as failed:
            await session.open(LOOPBACK, 9)
        assert failed.value.failure is Failure.UNAVAILABLE
        with pytest.raises(TransportError):
            await enter(TcpTransport(), server.address, keys)
        writer.write(b"still open")
        assert await reader.readexactly(10) == b"still open"
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(closing, 15.0)
        assert await session.closed == "the server closed the session"


@played_on_each_loop
async def test_drain_time_over_resets_what_is_left(keys: Keys) -> None:
    async with a_flow(keys) as (server, session, reader, writer):
        await server.close(drain_s=0.1)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert await session.closed == "the server closed the session"


@played_on_each_loop
async def test_flow_count(keys: Keys) -> None:
    async with our_server(keys) as (server, used), destination(echo) as port:
        session = await enter(used, server.address, keys)
        assert server.flow_count == 0
        pumps = [await session.open(LOOPBACK, port) for _ in range(3)]
        assert server.flow_count == 3
        for pump in pumps:
            pump.abort()
        await asyncio.sleep(0.1)
        assert server.flow_count == 0
        await session.close()


@played_on_each_loop
async def test_two_servers_with_one_identity_serve_apart(keys: Keys) -> None:
    transport = TcpTransport()
    async with contextlib.AsyncExitStack() as stack:
        addresses: list[Address] = []
        for _ in range(2):
            server, _ = await stack.enter_async_context(our_server(keys, transport))
            addresses.append(server.address)
        fingerprints = set()
        for address in addresses:
            session = await enter(transport, address, keys)
            fingerprints.add(session.host_key.get_fingerprint())
            await session.close()
        assert len(fingerprints) == 1
