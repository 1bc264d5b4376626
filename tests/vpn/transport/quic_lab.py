"""What the tests of QUIC share: intervals, noise, and ways to what stands behind a stream."""

import hashlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from transport_lab import Pair, Recorder, Relay, relayed_pair

from vpn.transport.base import Address, Datagrams, Listener, PlainSockets
from vpn.transport.quic.aioquic_engine import (
    AioquicAcceptor,
    AioquicConnection,
    AioquicEngine,
    client_configuration,
)
from vpn.transport.quic.config import Liveness
from vpn.transport.quic.engine import Call, Connection
from vpn.transport.quic.listener import QuicListener
from vpn.transport.quic.stream import QuicStream
from vpn.transport.quic.transport import QuicTransport
from vpn.transport.quic.udp_connection import UdpConnection
from vpn.transport.quic.udp_server import UdpServer

QUICK = Liveness(ping_interval_s=0.05, dead_after_s=0.3)
STEADY = Liveness(ping_interval_s=0.1, dead_after_s=2.0)
"""For ends that are to stay alive: a busy machine may be silent for a second."""


class Notes:
    """Writes down what is reported, by an engine or by a connection."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_fin(self) -> None:
        self.seen.append("fin")

    def on_datagram(self, data: bytes) -> None:
        self.seen.append(("datagram", data))


def noise(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def quic(liveness: Liveness) -> QuicTransport:
    return QuicTransport(AioquicEngine(liveness))


def call(address: Address, *, has_datagrams: bool = True) -> Call:
    name = (address.host, address.port)
    return Call(socket.AF_INET, name, PlainSockets(), has_datagrams=has_datagrams)


async def handshaken(address: Address) -> Connection:
    """A client's connection whose stream is not opened."""
    return await AioquicEngine().connect(call(address))


def server_of(listener: Listener) -> UdpServer:
    assert isinstance(listener, QuicListener)
    assert isinstance(listener._below, UdpServer)
    return listener._below


def configuration_of(listener: Listener) -> QuicConfiguration:
    acceptor = server_of(listener)._acceptor
    assert isinstance(acceptor, AioquicAcceptor)
    return acceptor._configuration


def connection_of(end: Recorder) -> UdpConnection:
    assert isinstance(end.transport, QuicStream)
    assert isinstance(end.transport._connection, UdpConnection)
    return end.transport._connection


def machine_of(connection: Connection) -> AioquicConnection:
    assert isinstance(connection, UdpConnection)
    assert isinstance(connection._machine, AioquicConnection)
    return connection._machine


def first_packet() -> bytes:
    """The Initial packet of a client."""
    machine = AioquicConnection(configuration=client_configuration(Liveness()))
    machine.connect(("127.0.0.1", 1), now=0.0)
    return machine.datagrams_to_send(now=0.0)[0][0]


@asynccontextmanager
async def pair_with_datagrams() -> AsyncIterator[tuple[Pair, Relay, list[Datagrams]]]:
    """Two recorders, a relay between them, and the datagrams of the client and the server."""
    async with relayed_pair(QuicTransport()) as (pair, relay):
        both = [end.transport.get_extra_info("datagrams") for end in pair.ends]
        for end, datagrams in zip(pair.ends, both, strict=True):
            datagrams.on_datagram = end.take_datagram
        yield pair, relay, both
