"""QUIC beyond what every transport promises: liveness, harmful networks and peers, identity."""

import asyncio
import datetime
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from quic_lab import (
    QUICK,
    configuration_of,
    connection_of,
    digest,
    handshaken,
    machine_of,
    noise,
    quic,
)
from transport_lab import (
    Recorder,
    Relay,
    blackhole,
    dialing,
    listening,
    played_on_each_loop,
    relayed_pair,
    seeded_harm,
)

from vpn.errors import AuthenticationError, TransportError
from vpn.transport.base import Address
from vpn.transport.certificate import self_signed
from vpn.transport.quic import udp_connection
from vpn.transport.quic.aioquic_engine import AioquicConnection
from vpn.transport.quic.config import ALPN, Liveness
from vpn.transport.quic.engine import Origin, Termination
from vpn.transport.quic.transport import QuicTransport, open_stream, refusal

# Liveness.


@played_on_each_loop
async def test_silence_ends_both_sides_with_a_timeout() -> None:
    async with relayed_pair(quic(QUICK)) as (pair, relay):
        pair.client.transport.write(b"alive")
        await pair.server.until_bytes(5)
        relay.harm = blackhole
        began = time.monotonic()
        for end in pair.ends:
            await end.until_fact("lost")
            assert isinstance(end.error, TimeoutError)
        assert QUICK.dead_after_s / 2 < time.monotonic() - began < 10


@played_on_each_loop
async def test_one_silent_direction_is_enough_to_be_dead() -> None:
    async with relayed_pair(quic(QUICK)) as (pair, relay):
        relay.harm = lambda data, is_upward: [data] if is_upward else []
        for end in pair.ends:
            await end.until_fact("lost")
        assert isinstance(pair.client.error, TimeoutError)
        # Nobody answers the server's pings; or the client's last packet said so before.
        assert isinstance(pair.server.error, TimeoutError | ConnectionResetError)


@played_on_each_loop
async def test_close_that_was_lost_is_told_again() -> None:
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


# Keys.


@played_on_each_loop
async def test_keys_are_updated_and_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_connection, "KEY_UPDATE_PACKETS", 200)
    updates: list[AioquicConnection] = []
    real_update = AioquicConnection.request_key_update

    def request_key_update(engine: AioquicConnection) -> None:
        updates.append(engine)
        real_update(engine)

    monkeypatch.setattr(AioquicConnection, "request_key_update", request_key_update)
    data = noise(7, 1 << 20)
    async with relayed_pair(QuicTransport()) as (pair, _):
        pair.client.transport.write(data)
        await pair.server.until_bytes(len(data))
        assert digest(pair.server.received) == digest(data)
        assert len(updates) >= 3


# Hostile peers.


@played_on_each_loop
async def test_second_stream_ends_the_connection() -> None:
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


@pytest.mark.usefixtures("small_window")
@played_on_each_loop
async def test_peer_that_overruns_its_credit_is_cut_off() -> None:
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


@played_on_each_loop
async def test_failing_library_ends_its_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
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


# The network.


@pytest.mark.parametrize("seed", [1, 2])
@played_on_each_loop
async def test_loss_doubles_corruption_and_disorder_do_no_harm(seed: int) -> None:
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
        assert all(connection_of(end).path.lost_packets > 0 for end in pair.ends)
        relay.harm = lambda data, is_upward: [data]


@played_on_each_loop
async def test_client_that_changes_its_address_is_followed() -> None:
    async with relayed_pair(QuicTransport()) as (pair, relay):
        pair.client.transport.write(b"from here")
        await pair.server.until_bytes(9)
        before = connection_of(pair.server).path
        await relay.rebind()
        pair.client.transport.write(b", and from there")
        await pair.server.until_bytes(25)
        pair.server.transport.write(b"answer")
        await pair.client.until_bytes(6)
        path = connection_of(pair.server).path
        assert path.local == before.local
        assert path.peer != before.peer


@pytest.mark.parametrize("any_address", ["::", "0.0.0.0"])
@played_on_each_loop
async def test_answer_comes_from_the_address_that_was_called(any_address: str) -> None:
    async with listening(QuicTransport(), any_address) as (listener, accepted):
        # Routing would answer 127.0.0.1 from 127.0.0.1.
        called = Address("127.0.0.2", listener.address.port)
        client = Recorder()
        await QuicTransport().connect(dialing(called, timeout_s=2), lambda: client)
        server = await accepted.get()
        server.transport.write(b"answer")
        await client.until_bytes(6)
        client.transport.abort()


# Identity.


@pytest.mark.parametrize(
    ("termination", "kind", "words"),
    [
        (Termination(Origin.SILENCE, reason="no answer"), TransportError, "srv:1: no answer"),
        (Termination(Origin.TRANSPORT, 0x133), AuthenticationError, "not hold the key of its"),
        (Termination(Origin.TRANSPORT, 0x178, "x"), TransportError, f"not speak {ALPN}; is it"),
        (Termination(Origin.TRANSPORT, 0x1A, "x"), TransportError, "connection: x; is it"),
        (Termination(Origin.APPLICATION, 0x1A), TransportError, "connection: error 0x1a; is it"),
    ],
)
def test_refusal_is_told_with_its_reason(
    termination: Termination, kind: type[Exception], words: str
) -> None:
    error = refusal(Address("srv", 1), termination)
    assert type(error) is kind
    assert words in str(error)


@played_on_each_loop
async def test_server_of_another_protocol_is_named() -> None:
    transport = QuicTransport()
    async with listening(transport) as (listener, accepted):
        configuration_of(listener).alpn_protocols = ["h3"]
        with pytest.raises(TransportError, match=f"does not speak {ALPN}"):
            await transport.connect(dialing(listener.address), Recorder)
        assert accepted.empty()


@played_on_each_loop
async def test_certificate_of_another_algorithm_is_refused() -> None:
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

    transport = QuicTransport()
    async with listening(transport) as (listener, accepted):
        configuration_of(listener).private_key = ec.generate_private_key(ec.SECP256R1())
        configuration_of(listener).certificate = ec_certificate(
            configuration_of(listener).private_key
        )
        with pytest.raises(AuthenticationError, match="no Ed25519 key"):
            await transport.connect(dialing(listener.address), Recorder)
        assert accepted.empty()


@played_on_each_loop
async def test_certificate_without_its_key_proves_nothing() -> None:
    """The chain is not checked; the signature of the handshake must be."""
    seen: list[bytes] = []
    transport = QuicTransport()
    async with listening(transport) as (listener, accepted):
        configuration_of(listener).private_key = Ed25519PrivateKey.generate()
        with pytest.raises(AuthenticationError, match="does not hold the key"):
            await transport.connect(dialing(listener.address, check_peer=seen.append), Recorder)
        assert seen == []
        assert accepted.empty()


# Close to the ground.


@played_on_each_loop
async def test_relay_forwards_what_it_is_not_told_to_harm() -> None:
    """The detector first: without harm the relay changes nothing, with it it does."""
    async with relayed_pair(QuicTransport()) as (_, relay):
        assert isinstance(relay, Relay)
        assert relay.forwarded > 0
    harm = seeded_harm(1)
    outcomes = [harm(b"datagram", True) for _ in range(200)]
    assert [] in outcomes
    assert [b"datagram", b"datagram"] in outcomes
    assert any(each != b"datagram" for outcome in outcomes for each in outcome)
