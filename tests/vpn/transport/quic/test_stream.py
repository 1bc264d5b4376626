"""The datagrams beside a stream; every transport's rules are in test_conformance.py."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from quic_lab import (
    configuration_of,
    connection_of,
    digest,
    handshaken,
    noise,
    pair_with_datagrams,
)
from transport_lab import Recorder, dialing, listening, played_on_each_loop, seeded_harm

from vpn.transport.quic.engine import ABORTED, Origin, Termination
from vpn.transport.quic.stream import error_of
from vpn.transport.quic.transport import QuicTransport, open_stream


@pytest.mark.parametrize("seed", [3, 4])
@played_on_each_loop
async def test_harmed_datagrams_are_lost_or_whole_and_the_stream_is_unharmed(seed: int) -> None:
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


@played_on_each_loop
async def test_flood_of_datagrams_does_not_starve_the_stream() -> None:
    data = noise(5, 200_000)
    async with pair_with_datagrams() as (pair, _, (client, _)):
        pair.client.transport.write(data)
        accepted = 0
        while len(pair.server.received) < len(data):
            for _ in range(100):
                accepted += client.send(bytes(client.max_bytes))
            await asyncio.sleep(0)
        assert 0 < len(pair.server.datagrams) < accepted
        assert digest(pair.server.received) == digest(data)


@played_on_each_loop
async def test_datagrams_overtake_a_stream_that_waits_for_credit() -> None:
    async with pair_with_datagrams() as (pair, _, (client, _)):
        pair.server.transport.pause_reading()
        while not pair.client.is_writing_paused:
            pair.client.transport.write(bytes(1 << 16))
            await asyncio.sleep(0)
        client.send(b"first")
        await pair.server.until(lambda end: bool(end.datagrams))
        assert pair.server.datagrams == [b"first"]


@played_on_each_loop
async def test_closing_stream_reports_no_datagram() -> None:
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


@played_on_each_loop
async def test_receiver_that_raises_loses_its_stream_alone() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with pair_with_datagrams() as (pair, _, (client, server)):
        server.on_datagram = [].remove
        client.send(b"not in the list")
        for end in pair.ends:
            await end.until_fact("lost")
        assert len(told) == 1


@played_on_each_loop
async def test_datagram_before_the_stream_is_lost() -> None:
    async with listening(QuicTransport()) as (listener, accepted):
        client = await handshaken(listener.address)
        client.send_datagram(b"nobody listens yet")
        await asyncio.sleep(0.05)
        assert accepted.empty()
        recorder = Recorder()
        open_stream(client, recorder)
        server = await accepted.get()
        server.transport.get_extra_info("datagrams").on_datagram = server.take_datagram
        recorder.transport.get_extra_info("datagrams").send(b"now")
        await server.until(lambda end: bool(end.datagrams))
        assert server.datagrams == [b"now"]
        recorder.transport.abort()


@asynccontextmanager
async def pair_without_datagrams(*, at_server: bool) -> AsyncIterator[tuple[Recorder, Recorder]]:
    """A client and a server of which one takes no datagrams."""
    async with listening(QuicTransport()) as (listener, accepted):
        if at_server:
            configuration_of(listener).max_datagram_frame_size = None
        client = Recorder()
        to = dialing(listener.address, datagrams=None if at_server else False)
        await QuicTransport().connect(to, lambda: client)
        yield client, await accepted.get()
        client.transport.abort()


@pytest.mark.parametrize("at_server", [True, False])
@played_on_each_loop
async def test_one_end_without_datagrams_means_none_on_both(at_server: bool) -> None:
    async with pair_without_datagrams(at_server=at_server) as ends:
        for end in ends:
            assert end.transport.get_extra_info("datagrams") is None


@played_on_each_loop
async def test_datagram_that_was_not_negotiated_ends_the_connection() -> None:
    async with pair_without_datagrams(at_server=True) as (client, server):
        connection_of(client).send_datagram(b"uninvited")
        await server.until_fact("lost")
        assert "Unexpected DATAGRAM frame" in str(server.error)
        await client.until_fact("lost")


@pytest.mark.parametrize(
    ("termination", "kind"),
    [
        (Termination(Origin.SILENCE, reason="no answer"), TimeoutError),
        (Termination(Origin.APPLICATION), type(None)),
        (Termination(Origin.TRANSPORT), type(None)),
        (Termination(Origin.APPLICATION, ABORTED), ConnectionResetError),
        (Termination(Origin.TRANSPORT, ABORTED, "x"), ConnectionResetError),
    ],
)
def test_end_of_the_connection_is_an_error_unless_it_is_clean(
    termination: Termination, kind: type[Exception]
) -> None:
    error = error_of(termination)
    assert type(error) is kind
    is_abort = "aborted" in str(error)
    assert is_abort == (termination == Termination(Origin.APPLICATION, ABORTED))
