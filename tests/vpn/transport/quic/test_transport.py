"""QUIC beyond what every transport promises: hostile networks, and the identity of the server."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from quic_lab import (
    configuration_of,
    digest,
    noise,
)
from transport_lab import (
    Recorder,
    Relay,
    dialing,
    listening,
    relayed_pair,
    seeded_harm,
)

from vpn.errors import AuthenticationError, TransportError
from vpn.transport.base import Address
from vpn.transport.certificate import self_signed
from vpn.transport.quic.config import ALPN
from vpn.transport.quic.transport import QuicTransport

Run = Callable[[Any], Any]


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


# Identity.


def test_server_of_another_protocol_is_named(run: Run) -> None:
    async def dialogue() -> None:
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            configuration_of(listener).alpn_protocols = ["h3"]
            with pytest.raises(TransportError, match=f"does not speak {ALPN}"):
                await transport.connect(dialing(listener.address), Recorder)
            assert accepted.empty()

    run(dialogue())


def test_certificate_of_another_algorithm_is_refused(run: Run) -> None:
    async def dialogue() -> None:
        transport = QuicTransport()
        async with listening(transport) as (listener, accepted):
            configuration_of(listener).private_key = ec.generate_private_key(ec.SECP256R1())
            configuration_of(listener).certificate = ec_certificate(
                configuration_of(listener).private_key
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
            configuration_of(listener).private_key = Ed25519PrivateKey.generate()
            with pytest.raises(AuthenticationError, match="does not hold the key"):
                await transport.connect(dialing(listener.address, check_peer=seen.append), Recorder)
            assert seen == []
            assert accepted.empty()

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
