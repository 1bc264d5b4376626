"""QUIC beyond what every transport promises: identity, liveness, hostile networks and peers."""

import asyncio
import datetime
import hashlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from transport_lab import (
    Pair,
    Recorder,
    Relay,
    blackhole,
    dialing,
    listening,
    relayed_pair,
    seeded_harm,
    until,
)

from vpn.errors import AuthenticationError, TransportError
from vpn.transport.base import Address, Datagrams, Dialing
from vpn.transport.certificate import self_signed
from vpn.transport.quic import udp_connection, udp_server
from vpn.transport.quic.aioquic_engine import QuicEngine
from vpn.transport.quic.config import ALPN, Liveness, client_configuration
from vpn.transport.quic.stream import QuicStream
from vpn.transport.quic.transport import QuicClient, QuicTransport
from vpn.transport.quic.udp_server import QuicListener

Run = Callable[[Any], Any]

QUICK = Liveness(ping_interval_s=0.05, dead_after_s=0.3)
STEADY = Liveness(ping_interval_s=0.1, dead_after_s=2.0)
"""For those who live on: a busy machine may be silent for a second."""


def noise(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


# Liveness.


def test_silence_ends_both_sides_with_a_timeout(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(QuicTransport(QUICK)) as (pair, relay):
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
        async with relayed_pair(QuicTransport(STEADY)) as (pair, _):
            await asyncio.sleep(1.25 * STEADY.dead_after_s)
            pair.client.transport.write(b"still here")
            await pair.server.until_bytes(10)
            assert pair.client.facts == pair.server.facts == ["made"]

    run(dialogue())


def test_one_silent_direction_is_enough_to_be_dead(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(QuicTransport(QUICK)) as (pair, relay):
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
        async with relayed_pair(QuicTransport(liveness)) as (pair, relay):
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


def test_handshake_without_a_stream_is_given_up(run: Run) -> None:
    async def dialogue() -> None:
        transport = QuicTransport(STEADY)
        async with listening(transport) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            client = await handshaken_client(dialing(listener.address))
            await until(lambda: bool(listener._half_open))
            await until(lambda: not (listener._half_open or listener._links))
            assert accepted.empty()
            client.close()

    run(dialogue())


async def handshaken_client(to: Dialing) -> QuicClient:
    udp = await to.sockets.outer_socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect((to.address.host, to.address.port))
    client = QuicClient(udp, to, Liveness())
    await client.connect()
    return client


# The network.


@pytest.mark.parametrize("seed", [1, 2])
def test_loss_doubles_corruption_and_disorder_do_no_harm(run: Run, seed: int) -> None:
    async def dialogue() -> None:
        up, down = noise(seed, 300_000), noise(seed + 100, 300_000)
        async with relayed_pair(QuicTransport()) as (pair, relay):
            relay.harm = seeded_harm(seed)
            pair.client.transport.write(up)
            pair.server.transport.write(down)
            pair.client.transport.write_eof()
            pair.server.transport.write_eof()
            for end in pair.ends:
                await end.until_fact("eof")
            assert digest(pair.server.received) == digest(up)
            assert digest(pair.client.received) == digest(down)
            relay.harm = lambda data, is_upward: [data]

    run(dialogue())


def test_client_that_changes_its_address_is_followed(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(QuicTransport()) as (pair, relay):
            pair.client.transport.write(b"from here")
            await pair.server.until_bytes(9)
            await relay.rebind()
            pair.client.transport.write(b", and from there")
            await pair.server.until_bytes(25)
            pair.server.transport.write(b"answer")
            await pair.client.until_bytes(6)

    run(dialogue())


@pytest.mark.parametrize("any_address", ["::", "0.0.0.0"])
def test_answer_comes_from_the_address_that_was_called(run: Run, any_address: str) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport(), any_address) as (listener, accepted):
            # Routing would answer 127.0.0.1 from 127.0.0.1.
            called = Address("127.0.0.2", listener.address.port)
            client = Recorder()
            await QuicTransport().connect(dialing(called, timeout_s=2), lambda: client)
            server = await accepted.get()
            server.transport.write(b"answer")
            await client.until_bytes(6)
            client.transport.abort()

    run(dialogue())


def test_keys_are_updated_and_the_stream_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_connection, "KEY_UPDATE_PACKETS", 200)
    updates: list[QuicEngine] = []
    real_update = QuicEngine.request_key_update

    def request_key_update(engine: QuicEngine) -> None:
        updates.append(engine)
        real_update(engine)

    monkeypatch.setattr(QuicEngine, "request_key_update", request_key_update)

    async def dialogue() -> None:
        data = noise(7, 1 << 20)
        async with relayed_pair(QuicTransport()) as (pair, _):
            pair.client.transport.write(data)
            await pair.server.until_bytes(len(data))
            assert digest(pair.server.received) == digest(data)
            assert len(updates) >= 3

    run(dialogue())


# Datagrams.


@asynccontextmanager
async def pair_with_datagrams() -> AsyncIterator[tuple[Pair, Relay, list[Datagrams]]]:
    """Two recorders, a relay between them, and the datagrams of the client and the server."""
    async with relayed_pair(QuicTransport()) as (pair, relay):
        both = [end.transport.get_extra_info("datagrams") for end in pair.ends]
        for end, datagrams in zip(pair.ends, both, strict=True):
            datagrams.on_datagram = end.take_datagram
        yield pair, relay, both


@pytest.mark.parametrize("seed", [3, 4])
def test_harmed_datagrams_are_lost_or_whole_and_the_stream_is_unharmed(run: Run, seed: int) -> None:
    async def dialogue() -> None:
        stream = noise(seed, 100_000)
        sent = [noise(number, 1 + number * 4) for number in range(300)]
        async with pair_with_datagrams() as (pair, relay, (client, _)):
            relay.harm = seeded_harm(seed)
            pair.client.transport.write(stream)
            for each in sent:
                client.send(each)
                await asyncio.sleep(0.001)
            pair.client.transport.write_eof()
            await pair.server.until_fact("eof")
            assert digest(pair.server.received) == digest(stream)
            relay.harm = lambda data, is_upward: [data]
            assert set(pair.server.datagrams) <= set(sent)
            assert len(pair.server.datagrams) == len(set(pair.server.datagrams))
            assert 0 < len(pair.server.datagrams) < len(sent)

    run(dialogue())


def test_flood_of_datagrams_does_not_starve_the_stream(run: Run) -> None:
    async def dialogue() -> None:
        data = noise(5, 200_000)
        async with pair_with_datagrams() as (pair, _, (client, _)):
            pair.client.transport.write(data)
            while len(pair.server.received) < len(data):
                for _ in range(100):
                    client.send(bytes(client.max_bytes))
                await asyncio.sleep(0)
            assert client.dropped > 0
            assert pair.server.datagrams
            assert digest(pair.server.received) == digest(data)

    run(dialogue())


def test_datagrams_overtake_a_stream_that_waits_for_credit(run: Run) -> None:
    async def dialogue() -> None:
        async with pair_with_datagrams() as (pair, _, (client, _)):
            pair.server.transport.pause_reading()
            while not pair.client.is_writing_paused:
                pair.client.transport.write(bytes(1 << 16))
                await asyncio.sleep(0)
            client.send(b"first")
            await pair.server.until(lambda end: bool(end.datagrams))
            assert pair.server.datagrams == [b"first"]

    run(dialogue())


def test_closing_stream_reports_no_datagram(run: Run) -> None:
    async def dialogue() -> None:
        async with pair_with_datagrams() as (pair, relay, (client, server)):
            pair.client.transport.write(b"unacknowledged")
            relay.harm = lambda data, is_upward: [] if is_upward else [data]
            pair.client.transport.close()  # waits until its bytes have arrived
            assert client.max_bytes == 0
            assert not client.send(b"too late")
            assert server.send(b"not heard")
            await asyncio.sleep(0.05)
            assert pair.client.datagrams == []
            relay.harm = lambda data, is_upward: [data]

    run(dialogue())


def test_receiver_that_raises_loses_its_stream_alone(run: Run) -> None:
    async def dialogue() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with pair_with_datagrams() as (pair, _, (client, server)):
            server.on_datagram = [].remove
            client.send(b"not in the list")
            for end in pair.ends:
                await end.until_fact("lost")
            assert len(told) == 1

    run(dialogue())


def test_datagram_before_the_stream_is_lost(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            client = await handshaken_client(dialing(listener.address))
            client._engine.queue_datagram(b"nobody listens yet")
            client._link.transmit()
            await asyncio.sleep(0.05)
            assert accepted.empty()
            recorder = Recorder()
            client.open_stream(recorder)
            server = await accepted.get()
            server.transport.get_extra_info("datagrams").on_datagram = server.take_datagram
            recorder.transport.get_extra_info("datagrams").send(b"now")
            await server.until(lambda end: bool(end.datagrams))
            assert server.datagrams == [b"now"]
            recorder.transport.abort()

    run(dialogue())


def test_server_without_datagrams_means_none_on_both_ends(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            listener._configuration.max_datagram_frame_size = None
            client = Recorder()
            await QuicTransport().connect(dialing(listener.address), lambda: client)
            server = await accepted.get()
            for end in (client, server):
                assert end.transport.get_extra_info("datagrams") is None
            client.transport.abort()

    run(dialogue())


def test_client_that_wants_no_datagrams_has_none(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            client = Recorder()
            to = dialing(listener.address, datagrams=False)
            await QuicTransport().connect(to, lambda: client)
            for end in (client, await accepted.get()):
                assert end.transport.get_extra_info("datagrams") is None
            client.transport.abort()

    run(dialogue())


def test_datagram_that_was_not_negotiated_ends_the_connection(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            listener._configuration.max_datagram_frame_size = None
            client = Recorder()
            await QuicTransport().connect(dialing(listener.address), lambda: client)
            server = await accepted.get()
            stream = client.transport
            assert isinstance(stream, QuicStream)
            stream._link.send_datagram(b"uninvited")
            await server.until_fact("lost")
            assert "Unexpected DATAGRAM frame" in str(server.error)
            await client.until_fact("lost")

    run(dialogue())


# Identity.


def test_server_of_another_protocol_is_named(run: Run) -> None:
    async def dialogue() -> None:
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            listener._configuration.alpn_protocols = ["h3"]
            with pytest.raises(TransportError, match=f"does not speak {ALPN}"):
                await transport.connect(dialing(listener.address), Recorder)
            assert accepted.empty()

    run(dialogue())


def test_certificate_of_another_algorithm_is_refused(run: Run) -> None:
    async def dialogue() -> None:
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            listener._configuration.private_key = ec.generate_private_key(ec.SECP256R1())
            listener._configuration.certificate = ec_certificate(
                listener._configuration.private_key
            )
            with pytest.raises(AuthenticationError, match="no Ed25519 key"):
                await transport.connect(dialing(listener.address), Recorder)
            assert accepted.empty()

    def ec_certificate(key: ec.EllipticCurvePrivateKey) -> Any:
        template = self_signed(Ed25519PrivateKey.generate())
        return (
            x509.CertificateBuilder()
            .subject_name(template.subject)
            .issuer_name(template.issuer)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
            .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
            .sign(key, SHA256())
        )

    run(dialogue())


def test_certificate_without_its_key_proves_nothing(run: Run) -> None:
    """The chain is not checked; the signature of the handshake must be."""
    seen: list[bytes] = []

    async def dialogue() -> None:
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            listener._configuration.private_key = Ed25519PrivateKey.generate()
            with pytest.raises(AuthenticationError, match="does not hold the key"):
                await transport.connect(dialing(listener.address, check_peer=seen.append), Recorder)
            assert seen == []
            assert accepted.empty()

    run(dialogue())


# Hostile clients.


async def exchange(listener: QuicListener, datagram: bytes) -> bytes:
    """Send one datagram from a socket of its own and return the answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect((listener.address.host, listener.address.port))
        await loop.sock_sendall(udp, datagram)
        return await loop.sock_recv(udp, 2048)


def first_datagram() -> bytes:
    engine = QuicEngine(configuration=client_configuration(Liveness()))
    engine.connect(("127.0.0.1", 1), now=0.0)
    return engine.datagrams_to_send(now=0.0)[0][0]


def test_first_packet_is_answered_with_a_retry_and_no_state(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, _):
            assert isinstance(listener, QuicListener)
            answer = await exchange(listener, first_datagram())
            header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
            assert header.packet_type == QuicPacketType.RETRY
            assert len(answer) < len(first_datagram()) / 3  # no amplification
            assert not listener._links

    run(dialogue())


def test_other_version_is_told_ours(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, _):
            assert isinstance(listener, QuicListener)
            datagram = bytearray(first_datagram())
            datagram[1:5] = b"\x1a\x2a\x3a\x4a"  # reserved for this (RFC 9000, section 15)
            answer = await exchange(listener, bytes(datagram))
            header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
            assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
            assert header.supported_versions == [QuicProtocolVersion.VERSION_1]

    run(dialogue())


def test_flood_of_handshakes_is_bounded_and_passes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_server, "MAX_HALF_OPEN", 2)

    async def dialogue() -> None:
        transport = QuicTransport(STEADY)
        async with listening(transport) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            idle = [await handshaken_client(dialing(listener.address)) for _ in range(2)]
            with pytest.raises(TransportError, match="no answer"):
                await transport.connect(dialing(listener.address, timeout_s=0.1), Recorder)
            await until(lambda: not listener._half_open)
            client = Recorder()
            await transport.connect(dialing(listener.address), lambda: client)
            await accepted.get()
            client.transport.abort()
            for each in idle:
                each.close()

    run(dialogue())


def test_garbage_is_ignored(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            assert isinstance(listener, QuicListener)
            dice = random.Random(11)
            real = first_datagram()
            for _ in range(300):
                garbage = bytearray(dice.randbytes(dice.randrange(1300)))
                if dice.random() < 0.5:
                    garbage[:6] = real[:6]
                listener.on_datagram(bytes(garbage), ("127.0.0.1", 9))
            listener.on_batch_end()
            assert not listener._links
            client = Recorder()
            await QuicTransport().connect(dialing(listener.address), lambda: client)
            await accepted.get()
            client.transport.abort()

    run(dialogue())


def test_second_stream_ends_the_connection(run: Run) -> None:
    async def dialogue() -> None:
        async with listening(QuicTransport()) as (listener, accepted):
            client = await handshaken_client(dialing(listener.address))
            recorder = Recorder()
            client.open_stream(recorder)
            server = await accepted.get()
            engine = client._engine
            engine._remote_max_streams_bidi = 2  # a client that does not keep to the limit
            engine.send_stream_data(4, b"more")
            client._link.transmit()
            await server.until_fact("lost")
            assert isinstance(server.error, ConnectionResetError)
            await recorder.until_fact("lost")

    run(dialogue())


def test_peer_that_overruns_its_credit_is_cut_off(run: Run) -> None:
    async def dialogue() -> None:
        async with relayed_pair(QuicTransport()) as (pair, _):
            pair.server.transport.pause_reading()
            stream = pair.client.transport
            assert isinstance(stream, QuicStream)
            engine = stream._link.engine
            assert engine._stream is not None
            engine._stream.max_stream_data_remote = engine._remote_max_data = 1 << 40
            while "lost" not in pair.server.facts:
                if not pair.client.is_writing_paused:
                    stream.write(bytes(1 << 16))
                await asyncio.sleep(0)
            assert "Over stream data limit" in str(pair.server.error)

    run(dialogue())


def test_failing_engine_ends_its_connection_alone(
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
            stream = servers[0].transport
            assert isinstance(stream, QuicStream)

            def receive_datagram(*arguments: object) -> None:
                raise AssertionError("a bug")

            monkeypatch.setattr(stream._link.engine, "receive_datagram", receive_datagram)
            clients[0].transport.write(b"trigger")
            for end in (clients[0], servers[0]):
                await end.until_fact("lost")
                assert isinstance(end.error, ConnectionResetError)
            assert len(told) == 1
            clients[1].transport.write(b"unharmed")
            await servers[1].until_bytes(8)
            clients[1].transport.abort()

    run(dialogue())


# Close to the ground.


def test_relay_forwards_what_it_is_not_told_to_harm(run: Run) -> None:
    """The detector first: without harm the relay changes nothing, with it it does."""

    async def dialogue() -> None:
        async with relayed_pair(QuicTransport()) as (_, relay):
            assert isinstance(relay, Relay)
            assert relay.forwarded > 0
        harm = seeded_harm(1)
        outcomes = [harm(b"datagram", True) for _ in range(200)]
        assert [] in outcomes
        assert [b"datagram", b"datagram"] in outcomes
        assert any(each != b"datagram" for outcome in outcomes for each in outcome)

    run(dialogue())
