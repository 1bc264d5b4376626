"""Whose a datagram is: of the channel that was opened inside SSH, and of no other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ssh_lab import Keys, enter, our_server
from transport_lab import Recorder, dialing, played_on_each_loop

from vpn.server.app import Server
from vpn.ssh.session.channel_datagrams import ChannelDatagrams, Multiplexer
from vpn.ssh.session.client import Session
from vpn.transport.base import Datagrams, Transport
from vpn.transport.quic.transport import QuicTransport

REFLECTOR = ("reflector.overlay-vpn.internal", 7)


class Below:
    """The datagrams of a connection, on paper."""

    max_bytes = 1200

    def __init__(self) -> None:
        self.on_datagram: Callable[[bytes], object]
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> bool:
        self.sent.append(data)
        return True


class Owner:
    """A channel that can close and that notes what raises."""

    def __init__(self) -> None:
        self.is_closed = False
        self.has_raised = False

    def is_closing(self) -> bool:
        return self.is_closed

    def guarded(self, callback: Any, *arguments: Any) -> None:
        try:
            callback(*arguments)
        except ValueError:
            self.has_raised = self.is_closed = True


@pytest.fixture
def below() -> Below:
    return Below()


def test_datagram_goes_to_the_number_of_the_peer_and_comes_to_ours(below: Below) -> None:
    received: list[bytes] = []
    channel = Multiplexer(below).open(Owner(), 3, 258)
    channel.on_datagram = received.append
    assert channel.send(b"up")
    assert below.sent == [b"\0\0\1\2up"]
    below.on_datagram(b"\0\0\0\3down")
    below.on_datagram(b"\0\0\0\3")
    assert received == [b"down", b""]


def test_number_takes_its_part_of_the_room(below: Below) -> None:
    assert Multiplexer(below).open(Owner(), 1, 1).max_bytes == below.max_bytes - 4


@pytest.mark.parametrize("hostile", [b"", b"\0\0\0", b"\0\0\0\4no", b"\xff\xff\xff\xffno"])
def test_datagram_of_no_channel_is_counted_and_reaches_nothing(
    below: Below, hostile: bytes
) -> None:
    received: list[bytes] = []
    mux = Multiplexer(below)
    mux.open(Owner(), 3, 3).on_datagram = received.append
    below.on_datagram(hostile)
    assert (received, mux.refused) == ([], 1)


def test_closed_channel_takes_and_sends_nothing(below: Below) -> None:
    received: list[bytes] = []
    mux, owner = Multiplexer(below), Owner()
    channel = mux.open(owner, 3, 3)
    channel.on_datagram = received.append
    owner.is_closed = True
    below.on_datagram(b"\0\0\0\3while it closes")
    mux.close(3)
    below.on_datagram(b"\0\0\0\3afterwards")
    assert not channel.send(b"too late")
    assert channel.max_bytes == 0
    assert (received, below.sent, mux.refused) == ([], [], 2)


def test_receiver_that_raises_is_the_channels_affair(below: Below) -> None:
    mux, owner = Multiplexer(below), Owner()
    mux.open(owner, 3, 3).on_datagram = bytes.decode
    below.on_datagram(b"\0\0\0\3\xff")
    assert owner.has_raised


# Over QUIC.


class Reflector(Recorder):
    """A service that sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        datagrams: Datagrams | None = transport.get_extra_info("datagrams")
        if datagrams is not None:
            datagrams.on_datagram = datagrams.send


@asynccontextmanager
async def reflecting(
    keys: Keys, transport: Transport | None = None
) -> AsyncIterator[tuple[Server, Transport]]:
    """A server that has the service."""
    async with our_server(keys, transport) as (server, used):
        server._services = {**server._services, REFLECTOR: lambda _: Reflector()}
        yield server, used


async def reflection(session: Session) -> tuple[Recorder, ChannelDatagrams | None]:
    """A channel to it, and its datagrams."""
    client = Recorder()
    channel = await session._open(*REFLECTOR, client)
    datagrams = channel.get_extra_info("datagrams")
    if datagrams is not None:
        datagrams.on_datagram = client.take_datagram
    return client, datagrams


@played_on_each_loop
async def test_channels_of_a_session_get_their_own_datagrams(keys: Keys) -> None:
    async with reflecting(keys, QuicTransport()) as (server, transport):
        session = await enter(transport, server.address, keys)
        opened = [await reflection(session) for _ in range(3)]
        for number, (_, datagrams) in enumerate(opened):
            assert datagrams is not None
            assert datagrams.send(bytes([number]))
        for number, (client, _) in enumerate(opened):
            await client.until(lambda end: bool(end.datagrams))
            assert client.datagrams == [bytes([number])]
        await session.close()


@played_on_each_loop
async def test_session_without_datagrams_has_none_in_its_channels(keys: Keys) -> None:
    async with reflecting(keys) as (server, transport):
        session = await enter(transport, server.address, keys)
        assert (await reflection(session))[1] is None
        await session.close()


@played_on_each_loop
async def test_channel_that_has_closed_is_sent_nothing_any_more(keys: Keys) -> None:
    async with reflecting(keys, QuicTransport()) as (server, transport):
        session = await enter(transport, server.address, keys)
        client, datagrams = await reflection(session)
        other, others = await reflection(session)
        assert datagrams is not None
        assert others is not None
        client.transport.close()
        assert not datagrams.send(b"no")
        session._connection.datagrams._below.send(datagrams._prefix + b"yet sent")
        others.send(b"here")
        await other.until(lambda end: bool(end.datagrams))
        assert client.datagrams == []
        await session.close()


@played_on_each_loop
async def test_second_login_reaches_nothing_of_the_first(keys: Keys) -> None:
    """Its channels have the same numbers, on another connection."""
    async with reflecting(keys, QuicTransport()) as (server, transport):
        first = await enter(transport, server.address, keys)
        second = await enter(transport, server.address, keys)
        client, datagrams = await reflection(first)
        assert datagrams is not None
        stream = second._connection.get_extra_info("datagrams")
        for number in range(64):
            assert stream.send(number.to_bytes(4, "big") + b"guessed")
        other, others = await reflection(second)
        assert others is not None
        others.send(b"own")
        await other.until(lambda end: bool(end.datagrams))
        datagrams.send(b"own")
        await client.until(lambda end: bool(end.datagrams))
        assert client.datagrams == other.datagrams == [b"own"]
        await first.close()
        await second.close()


@played_on_each_loop
async def test_datagrams_before_the_login_reach_nothing(keys: Keys) -> None:
    async with reflecting(keys, QuicTransport()) as (server, transport):
        recorder = Recorder()
        await QuicTransport().connect(dialing(server.address), lambda: recorder)
        datagrams = recorder.transport.get_extra_info("datagrams")
        datagrams.on_datagram = recorder.take_datagram
        await recorder.until_bytes(8)  # the server's greeting: there is a session to log in to
        session = await enter(transport, server.address, keys)
        client, own = await reflection(session)
        for number in range(64):
            datagrams.send(number.to_bytes(4, "big") + b"guessed")
        await asyncio.sleep(0.05)
        assert own is not None
        own.send(b"own")
        await client.until(lambda end: bool(end.datagrams))
        assert client.datagrams == [b"own"]
        assert recorder.datagrams == []
        recorder.transport.abort()
        await session.close()
