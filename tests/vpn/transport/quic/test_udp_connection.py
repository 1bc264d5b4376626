"""One connection over UDP: liveness, the closing period, key updates, hostile peers."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from quic_lab import (
    QUICK,
    STEADY,
    connection_of,
    digest,
    handshaken,
    machine_of,
    noise,
    quic,
)
from transport_lab import (
    Recorder,
    blackhole,
    dialing,
    listening,
    relayed_pair,
)

from vpn.transport.quic import udp_connection
from vpn.transport.quic.aioquic_engine import AioquicConnection
from vpn.transport.quic.config import Liveness
from vpn.transport.quic.transport import QuicTransport, open_stream

Run = Callable[[Any], Any]


# Liveness.


def test_silence_ends_both_sides_with_a_timeout(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(quic(QUICK)) as (pair, relay):
            pair.client.transport.write(b"alive")
            await pair.server.until_bytes(5)
            relay.harm = blackhole
            began = time.monotonic()
            for end in pair.ends:
                await end.until_fact("lost")
                assert isinstance(end.error, TimeoutError)
            assert QUICK.dead_after_s / 2 < time.monotonic() - began < 10

    run(dialogue())


def test_pings_keep_a_quiet_connection_alive(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(quic(STEADY)) as (pair, _):
            await asyncio.sleep(1.25 * STEADY.dead_after_s)
            pair.client.transport.write(b"still here")
            await pair.server.until_bytes(10)
            assert pair.client.facts == pair.server.facts == ["made"]

    run(dialogue())


def test_one_silent_direction_is_enough_to_be_dead(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(quic(QUICK)) as (pair, relay):
            relay.harm = lambda data, is_upward: [data] if is_upward else []
            for end in pair.ends:
                await end.until_fact("lost")
            assert isinstance(pair.client.error, TimeoutError)
            # Nobody answers the server's pings; or the client's last packet said so before.
            assert isinstance(pair.server.error, TimeoutError | ConnectionResetError)

    run(dialogue())


def test_close_that_was_lost_is_told_again(run: Run) -> None:
    async def dialogue() -> None:
        liveness = Liveness(ping_interval_s=0.01, dead_after_s=20)
        async with relayed_pair(quic(liveness)) as (pair, relay):
            lost: list[bytes] = []

            def lose_one(data: bytes, is_upward: bool) -> list[bytes]:
                if is_upward or lost:
                    return [data]
                lost.append(data)
                return []

            relay.harm = lose_one
            pair.server.transport.abort()
            await asyncio.wait_for(pair.client.until_fact("lost"), 10)
            assert isinstance(pair.client.error, ConnectionResetError)
            assert lost

    run(dialogue())


# Keys.


def test_keys_are_updated_and_the_stream_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_connection, "KEY_UPDATE_PACKETS", 200)
    updates: list[AioquicConnection] = []
    real_update = AioquicConnection.request_key_update

    def request_key_update(engine: AioquicConnection) -> None:
        updates.append(engine)
        real_update(engine)

    monkeypatch.setattr(AioquicConnection, "request_key_update", request_key_update)

    async def dialogue() -> None:
        data = noise(7, 1 << 20)
        async with relayed_pair(QuicTransport()) as (pair, _):
            pair.client.transport.write(data)
            await pair.server.until_bytes(len(data))
            assert digest(pair.server.received) == digest(data)
            assert len(updates) >= 3

    run(dialogue())


# Hostile peers.


def test_second_stream_ends_the_connection(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            client = await handshaken(listener.address)
            recorder = Recorder()
            open_stream(client, recorder)
            server = await accepted.get()
            machine = machine_of(client)
            machine._remote_max_streams_bidi = 2  # a client that does not keep to the limit
            machine.send_stream_data(4, b"more")
            connection_of(recorder).transmit()
            await server.until_fact("lost")
            assert isinstance(server.error, ConnectionResetError)
            await recorder.until_fact("lost")

    run(dialogue())


def test_peer_that_overruns_its_credit_is_cut_off(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(QuicTransport()) as (pair, _):
            pair.server.transport.pause_reading()
            stream = pair.client.transport
            machine = machine_of(connection_of(pair.client))
            assert machine._stream is not None
            machine._stream.max_stream_data_remote = machine._remote_max_data = 1 << 40
            while "lost" not in pair.server.facts:
                if not pair.client.is_writing_paused:
                    stream.write(bytes(1 << 16))
                await asyncio.sleep(0)
            assert "Over stream data limit" in str(pair.server.error)

    run(dialogue())


def test_failing_library_ends_its_connection_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dialogue() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            clients, servers = [], []
            for _ in range(2):
                clients.append(Recorder())
                await transport.connect(dialing(listener.address), lambda: clients[-1])
                servers.append(await accepted.get())
            machine = machine_of(connection_of(servers[0]))

            def receive_datagram(*arguments: object) -> None:
                raise AssertionError("a bug")

            monkeypatch.setattr(machine, "receive_datagram", receive_datagram)
            clients[0].transport.write(b"trigger")
            for end in (clients[0], servers[0]):
                await end.until_fact("lost")
                assert isinstance(end.error, ConnectionResetError)
            assert "the QUIC engine failed" in str(servers[0].error)
            assert len(told) == 1
            clients[1].transport.write(b"unharmed")
            await servers[1].until_bytes(8)
            clients[1].transport.abort()

    run(dialogue())
