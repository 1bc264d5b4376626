"""Packets that belong to no connection yet, and connections that never open their stream."""

import asyncio
import random
import socket

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header
from quic_lab import (
    STEADY,
    first_packet,
    handshaken,
    quic,
    server_of,
)
from transport_lab import Recorder, dialing, listening, played_on_each_loop, until

from vpn.errors import TransportError
from vpn.transport.base import Listener
from vpn.transport.quic import udp_server
from vpn.transport.quic.transport import QuicTransport


@played_on_each_loop
async def test_handshake_without_a_stream_is_given_up() -> None:
    transport = quic(STEADY)
    async with listening(transport) as (listener, accepted):
        client = await handshaken(listener.address)
        await until(lambda: bool(server_of(listener)._half_open))
        await until(
            lambda: not (server_of(listener)._half_open or server_of(listener)._connections)
        )
        assert accepted.empty()
        client.close()


async def exchange(listener: Listener, datagram: bytes) -> bytes:
    """Send one datagram from a socket of its own and return the answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect((listener.address.host, listener.address.port))
        await loop.sock_sendall(udp, datagram)
        return await loop.sock_recv(udp, 2048)


@played_on_each_loop
async def test_first_packet_is_answered_with_a_retry_and_no_state() -> None:
    async with listening(QuicTransport()) as (listener, _):
        answer = await exchange(listener, first_packet())
        header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
        assert header.packet_type == QuicPacketType.RETRY
        assert len(answer) < len(first_packet()) / 3  # no amplification
        assert not server_of(listener)._connections


@played_on_each_loop
async def test_other_version_is_told_ours() -> None:
    async with listening(QuicTransport()) as (listener, _):
        datagram = bytearray(first_packet())
        datagram[1:5] = b"\x1a\x2a\x3a\x4a"  # reserved for this (RFC 9000, section 15)
        answer = await exchange(listener, bytes(datagram))
        header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
        assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
        assert header.supported_versions == [QuicProtocolVersion.VERSION_1]


@played_on_each_loop
async def test_flood_of_handshakes_is_bounded_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_server, "MAX_HALF_OPEN", 2)
    transport = quic(STEADY)
    async with listening(transport) as (listener, accepted):
        idle = [await handshaken(listener.address) for _ in range(2)]
        with pytest.raises(TransportError, match="no answer"):
            await transport.connect(dialing(listener.address, timeout_s=0.1), Recorder)
        await until(lambda: not server_of(listener)._half_open)
        client = Recorder()
        await transport.connect(dialing(listener.address), lambda: client)
        await accepted.get()
        client.transport.abort()
        for each in idle:
            each.close()


@played_on_each_loop
async def test_garbage_is_ignored() -> None:
    async with listening(QuicTransport()) as (listener, accepted):
        dice = random.Random(11)
        real = first_packet()
        for _ in range(300):
            garbage = bytearray(dice.randbytes(dice.randrange(1300)))
            if dice.random() < 0.5:
                garbage[:6] = real[:6]
            server_of(listener).on_datagram(bytes(garbage), ("127.0.0.1", 9))
        server_of(listener).on_batch_end()
        assert not server_of(listener)._connections
        client = Recorder()
        await QuicTransport().connect(dialing(listener.address), lambda: client)
        await accepted.get()
        client.transport.abort()
