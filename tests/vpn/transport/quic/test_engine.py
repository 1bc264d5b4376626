"""What `vpn.transport.quic.engine` promises, for every engine on every event loop.

Another engine joins by a line in `ENGINES`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_engine import FakeEngine
from quic_lab import STEADY, call, noise
from transport_lab import SEED, Relay, blackhole, free_port, played_on_each_loop, until

from vpn.transport.base import Address, Listener, Listening
from vpn.transport.quic.aioquic_engine import AioquicEngine
from vpn.transport.quic.config import MAX_WAITING_DATAGRAMS, Liveness
from vpn.transport.quic.engine import (
    ABORTED,
    NO_ERROR,
    REFUSED,
    Connection,
    ConnectionClosedError,
    Engine,
    Origin,
    Termination,
)

ENGINES: dict[str, Callable[[Liveness], Engine]] = {
    "aioquic": AioquicEngine,
    "fake": FakeEngine,
}
PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
QUIET_S = 0.2


class Recorder:
    """A receiver that remembers what it was told, and consumes what it reads if it `is_eager`."""

    def __init__(self) -> None:
        self.connection: Connection
        self.received = bytearray()
        self.datagrams: list[bytes] = []
        self.progress = 0
        self.is_eager = True
        self.has_fin = False
        self.termination: Termination | None = None

    def on_bytes(self, data: bytes) -> None:
        assert self.termination is None
        assert not self.has_fin
        self.received += data
        if self.is_eager:
            self.connection.consume(len(data))

    def on_fin(self) -> None:
        assert not self.has_fin
        self.has_fin = True

    def on_progress(self) -> None:
        self.progress += 1

    def on_datagram(self, data: bytes) -> None:
        assert self.termination is None
        self.datagrams.append(data)

    def on_closed(self, termination: Termination) -> None:
        assert self.termination is None
        self.termination = termination

    def attach(self, connection: Connection) -> None:
        self.connection = connection
        connection.attach(self)


@dataclass
class Line:
    """Two ends of one connection, what was accepted, and a way to lose every packet."""

    client: Recorder
    accepted: list[Recorder]
    listener: Listener
    cut: Callable[[], None]

    @property
    def server(self) -> Recorder:
        return self.accepted[0]

    @property
    def ends(self) -> list[Recorder]:
        return [self.client, self.server]


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param](STEADY)


async def listening(engine: Engine) -> tuple[Listener, list[Recorder]]:
    """A listener and the receivers it has attached."""
    accepted: list[Recorder] = []

    def accept(connection: Connection) -> None:
        accepted.append(Recorder())
        accepted[-1].attach(connection)

    return await engine.listen(Listening(Address("127.0.0.1", 0), SEED), accept), accepted


@asynccontextmanager
async def dialled(engine: Engine, *, has_datagrams: bool = True) -> AsyncIterator[Line]:
    """A client's connection whose stream is not attached."""
    listener, accepted = await listening(engine)
    relay: Relay | None = None
    address = listener.address
    if not isinstance(engine, FakeEngine):
        relay = Relay(address)
        address = await relay.open()
    client = Recorder()
    client.connection = await engine.connect(call(address, has_datagrams=has_datagrams))

    def cut() -> None:
        if isinstance(engine, FakeEngine):
            engine.cut()
        elif relay is not None:
            relay.harm = blackhole

    try:
        yield Line(client, accepted, listener, cut)
    finally:
        client.connection.close(ABORTED)
        await asyncio.sleep(0.01)
        await listener.close()
        if relay is not None:
            relay.close()


@asynccontextmanager
async def attached(engine: Engine) -> AsyncIterator[Line]:
    """Both ends of a connection with its stream."""
    async with dialled(engine) as line:
        line.client.attach(line.client.connection)
        await until(lambda: bool(line.accepted))
        yield line


async def passes(data: bytes, source: Recorder, target: Recorder) -> None:
    """Write data and wait until it has arrived."""
    source.connection.write(data)
    await until(lambda: target.received.endswith(data))


@played_on_each_loop
async def test_connection_is_accepted_once_the_client_attaches(engine: Engine) -> None:
    async with dialled(engine) as line:
        await asyncio.sleep(QUIET_S)
        assert line.accepted == []
        line.client.attach(line.client.connection)
        await until(lambda: len(line.accepted) == 1)
        await passes(b"the server may speak first", line.server, line.client)


@played_on_each_loop
async def test_server_proves_its_key_and_the_client_none(engine: Engine) -> None:
    async with attached(engine) as line:
        assert line.client.connection.peer_key == PUBLIC
        assert line.server.connection.peer_key is None


@played_on_each_loop
async def test_path_names_both_ends_and_measures(engine: Engine) -> None:
    async with attached(engine) as line:
        client, server = (end.connection.path for end in line.ends)
        address = line.listener.address
        assert server.local == (address.host, address.port)
        assert client.local[0] == client.peer[0] == server.peer[0] == "127.0.0.1"
        assert 0 < client.rtt_s < 5
        assert client.lost_packets >= 0


@pytest.mark.parametrize("is_client_sending", [True, False])
@played_on_each_loop
async def test_bytes_and_end_arrive_in_order_and_are_acknowledged(
    engine: Engine, is_client_sending: bool
) -> None:
    async with attached(engine) as line:
        sender, receiver = line.ends if is_client_sending else line.ends[::-1]
        data = noise(1, 300_000)
        buffer = bytearray(data[:1000])
        sender.connection.write(buffer)
        buffer[:] = bytes(1000)
        sender.connection.write(data[1000:])
        assert sender.connection.unsent_bytes > 0
        assert not sender.connection.is_sending_finished
        sender.connection.write(b"", is_end=True)
        await until(lambda: receiver.has_fin)
        assert receiver.received == data
        await until(lambda: sender.connection.is_sending_finished)
        assert sender.connection.unsent_bytes == 0
        assert sender.progress > 0
        await passes(b"the other direction is open", receiver, sender)
        assert not sender.has_fin
        assert sender.termination is receiver.termination is None


@played_on_each_loop
async def test_unread_bytes_stop_the_sender_until_they_are_consumed(
    engine: Engine, small_window: int
) -> None:
    async with attached(engine) as line:
        line.server.is_eager = False
        connection = line.client.connection
        connection.write(bytes(small_window + 100_000))
        await until(lambda: len(line.server.received) == small_window)
        assert connection.unsent_bytes == 100_000
        await asyncio.sleep(QUIET_S)
        assert len(line.server.received) == small_window
        line.server.connection.consume(small_window)
        await until(lambda: len(line.server.received) == small_window + 100_000)
        assert connection.unsent_bytes == 0


@pytest.mark.parametrize("code", [NO_ERROR, ABORTED, REFUSED])
@pytest.mark.parametrize("is_client_closing", [True, False])
@played_on_each_loop
async def test_close_tells_the_peer_its_code_and_reason(
    engine: Engine, code: int, is_client_closing: bool
) -> None:
    async with attached(engine) as line:
        first, second = line.ends if is_client_closing else line.ends[::-1]
        first.connection.close(code, "because")
        await until(lambda: second.termination is not None)
        assert second.termination == Termination(Origin.APPLICATION, code, "because")
        second.connection.close()  # harmless
        assert first.termination is None  # it has asked for it


@played_on_each_loop
async def test_peer_that_falls_silent_is_noticed_by_both_ends(engine: Engine) -> None:
    async with attached(engine) as line:
        line.cut()
        for end in line.ends:
            await until(lambda end=end: end.termination is not None)
            assert end.termination is not None
            assert end.termination.origin is Origin.SILENCE


@played_on_each_loop
async def test_quiet_connection_lives_on(engine: Engine) -> None:
    async with attached(engine) as line:
        await asyncio.sleep(1.25 * STEADY.dead_after_s)
        assert line.client.termination is line.server.termination is None
        await passes(b"still here", line.client, line.server)


@played_on_each_loop
async def test_connection_that_ended_cannot_be_attached(engine: Engine) -> None:
    async with dialled(engine) as line:
        line.client.connection.close(ABORTED)
        with pytest.raises(ConnectionClosedError) as caught:
            line.client.attach(line.client.connection)
        assert caught.value.termination.code == ABORTED
        await asyncio.sleep(QUIET_S)
        assert line.accepted == []


@played_on_each_loop
async def test_datagrams_pass_both_ways_up_to_the_largest(engine: Engine) -> None:
    async with attached(engine) as line:
        for first, second in (line.ends, line.ends[::-1]):
            largest = bytes(first.connection.max_datagram_bytes)
            assert len(largest) >= 1000
            for data in (b"", largest):
                first.connection.send_datagram(data)
            await until(lambda second=second: len(second.datagrams) == 2)
            assert second.datagrams == [b"", largest]
            assert second.received == b""


@played_on_each_loop
async def test_datagrams_without_room_are_dropped_oldest_first(engine: Engine) -> None:
    async with attached(engine) as line:
        for number in range(MAX_WAITING_DATAGRAMS + 3):
            line.client.connection.send_datagram(number.to_bytes(2, "big"))
        assert line.client.connection.dropped_datagrams == 3
        last = (MAX_WAITING_DATAGRAMS + 2).to_bytes(2, "big")
        await until(lambda: last in line.server.datagrams)
        assert line.server.datagrams[0] == b"\x00\x03"


@played_on_each_loop
async def test_client_that_wants_no_datagrams_means_none_at_both_ends(engine: Engine) -> None:
    async with dialled(engine, has_datagrams=False) as line:
        line.client.attach(line.client.connection)
        await until(lambda: bool(line.accepted))
        assert [end.connection.max_datagram_bytes for end in line.ends] == [0, 0]


@played_on_each_loop
async def test_closed_listener_aborts_its_connections_and_accepts_no_more(engine: Engine) -> None:
    listener, accepted = await listening(engine)
    client = Recorder()
    client.attach(await engine.connect(call(listener.address)))
    await until(lambda: bool(accepted))
    await listener.close()
    for end in (client, *accepted):
        await until(lambda end=end: end.termination is not None)
        assert end.termination == Termination(Origin.APPLICATION, ABORTED)
    with pytest.raises(ConnectionRefusedError):
        await engine.connect(call(listener.address))
    await listener.close()  # harmless


@played_on_each_loop
async def test_nobody_listening_is_refused(engine: Engine) -> None:
    with pytest.raises(ConnectionRefusedError):
        await engine.connect(call(Address("127.0.0.1", free_port(socket.SOCK_DGRAM))))
