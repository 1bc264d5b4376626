"""What `vpn.transport.base` promises, for every transport on every event loop."""

import asyncio
import hashlib
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transport_lab import (
    LOOPS,
    SEED,
    TRANSPORTS,
    Pair,
    Recorder,
    Runner,
    dialing,
    free_port,
    listening,
    pair_of,
    played_on_each_loop,
)

from vpn.errors import AuthenticationError, TransportError
from vpn.transport import dial, registry
from vpn.transport.base import (
    HIGH_WATER,
    Address,
    Dialing,
    Listening,
    PlainSockets,
    Transport,
)

Run = Callable[[Any], Any]

PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
CHUNK = bytes(range(256)) * 256
QUIC = frozenset({"quic", "quic over a fake engine"})
QUIET_S = 0.3

# What a paused peer may take before its sender is paused: one receive window, and the mark.
# In memory there is no window; for TCP it is the kernel's buffers of both ends, which grow up to
# tcp_rmem and tcp_wmem (tcp(7)).
ACCEPTED_LIMIT = {
    "memory": HIGH_WATER + len(CHUNK),
    "tcp": 32 << 20,
}


@pytest.fixture(params=sorted(TRANSPORTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def transport(name: str) -> Transport:
    return TRANSPORTS[name]()


def noise(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


def send(recorder: Recorder, data: bytes) -> None:
    recorder.transport.write(data)


async def both_end_cleanly(pair: Pair) -> None:
    for end in pair.ends:
        await end.until_fact("lost")
        assert end.error is None


def test_it_is_registered_under_its_name(transport: Transport, name: str) -> None:
    assert transport.name == name.partition(" ")[0]
    assert type(registry.load(transport.name)) is type(transport)


@played_on_each_loop
async def test_bytes_pass_both_ways_whoever_speaks_first(transport: Transport) -> None:
    async with pair_of(transport) as pair:
        send(pair.server, b"server first")
        await pair.client.until_bytes(12)
        send(pair.client, b"then the client")
        await pair.server.until_bytes(15)
        assert pair.client.received == b"server first"
        assert pair.server.received == b"then the client"


@pytest.mark.parametrize("name", sorted(TRANSPORTS))
@pytest.mark.parametrize("loop", sorted(LOOPS))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 70_000), max_size=12),
    kinds=st.lists(st.sampled_from([bytes, bytearray, memoryview]), min_size=12, max_size=12),
    pauses=st.sets(st.integers(0, 11)),
)
def test_order_and_content_are_kept_for_any_chunking(
    loop: str, name: str, sizes: list[int], kinds: list[type], pauses: set[int]
) -> None:
    chunks = [noise(number, size) for number, size in enumerate(sizes)]
    whole = b"".join(chunks)

    async def dialogue() -> None:
        async with pair_of(TRANSPORTS[name]()) as pair:
            for end in pair.ends:
                for number, chunk in enumerate(chunks):
                    send(end, kinds[number](chunk))
                    if number in pauses:
                        await asyncio.sleep(0)
            for end in pair.ends:
                await end.until_bytes(len(whole))
                assert end.received == whole

    with Runner(loop) as runner:
        runner.run(dialogue())


@played_on_each_loop
async def test_a_buffer_changed_after_write_was_sent_as_it_was(transport: Transport) -> None:
    async with pair_of(transport) as pair:
        buffer = bytearray(b"before")
        pair.client.transport.write(buffer)
        buffer[:] = b"AFTER!"
        await pair.server.until_bytes(6)
        assert pair.server.received == b"before"


@pytest.mark.parametrize("is_client_first", [True, False])
@played_on_each_loop
async def test_half_closed_stream_still_carries_the_other_direction(
    transport: Transport, is_client_first: bool
) -> None:
    request, response = noise(1, 100_000), noise(2, 700_000)
    async with pair_of(transport) as pair:
        first, second = pair.ends if is_client_first else pair.ends[::-1]
        send(first, request)
        first.transport.write_eof()
        await second.until_fact("eof")
        assert second.received == request
        send(second, response)
        await first.until_bytes(len(response))
        assert "eof" not in first.facts
        second.transport.write_eof()
        await first.until_fact("eof")
        assert first.received == response
        assert "lost" not in first.facts + second.facts
        first.transport.close()
        second.transport.close()
        await both_end_cleanly(pair)


@played_on_each_loop
async def test_false_answer_to_eof_closes_after_what_was_written(transport: Transport) -> None:
    response = noise(3, 500_000)
    async with pair_of(transport, keeps_open=False) as pair:
        send(pair.server, response)
        pair.client.transport.write_eof()
        await both_end_cleanly(pair)
        assert pair.client.received == response


@played_on_each_loop
async def test_close_delivers_everything_written_before(transport: Transport) -> None:
    data = noise(4, 3 << 20)
    async with pair_of(transport) as pair:
        send(pair.client, data)
        pair.client.transport.close()
        assert pair.client.transport.is_closing()
        await pair.server.until_fact("eof")
        assert hashlib.sha256(pair.server.received).digest() == hashlib.sha256(data).digest()
        pair.server.transport.close()
        await both_end_cleanly(pair)


@played_on_each_loop
async def test_close_reaches_a_peer_that_reads_only_later(transport: Transport) -> None:
    data = noise(5, 60_000)
    async with pair_of(transport) as pair:
        pair.server.transport.pause_reading()
        send(pair.client, data)
        pair.client.transport.close()
        await pair.client.until_fact("lost")
        assert pair.server.received == b""
        pair.server.transport.resume_reading()
        await pair.server.until_fact("eof")
        assert pair.server.received == data
        pair.server.transport.close()
        await pair.server.until_fact("lost")


@pytest.mark.parametrize("is_client_first", [True, False])
@played_on_each_loop
async def test_abort_is_a_reset_at_the_peer(transport: Transport, is_client_first: bool) -> None:
    async with pair_of(transport) as pair:
        first, second = pair.ends if is_client_first else pair.ends[::-1]
        send(first, b"seen")
        await second.until_bytes(4)
        first.transport.abort()
        await second.until_fact("lost")
        assert isinstance(second.error, ConnectionResetError)
        assert "eof" not in second.facts
        await first.until_fact("lost")
        assert first.error is None
        first.transport.abort()  # again, and too late: nothing happens


@played_on_each_loop
async def test_calls_after_the_end_are_harmless(transport: Transport) -> None:
    async with pair_of(transport) as pair:
        pair.server.transport.abort()
        await pair.client.until_fact("lost")
        stream = pair.client.transport
        assert stream.is_closing()
        stream.write(b"too late")
        stream.pause_reading()
        stream.close()
        stream.abort()


@played_on_each_loop
async def test_write_after_write_eof_is_a_bug_of_the_caller(transport: Transport) -> None:
    async with pair_of(transport) as pair:
        assert pair.client.transport.can_write_eof()
        pair.client.transport.write_eof()
        pair.client.transport.write_eof()
        with pytest.raises(RuntimeError):
            pair.client.transport.write(b"more")


async def write_until_stopped(end: Recorder) -> bytes:
    """Write while the stream takes it; return what it took."""
    taken = bytearray()
    clock = time.process_time  # both ends are in this process, which may have to wait its turn
    progress_at = clock()
    while clock() - progress_at < QUIET_S:
        if not end.is_writing_paused:
            send(end, CHUNK)
            taken += CHUNK
            progress_at = clock()
        await asyncio.sleep(0)
    return bytes(taken)


@pytest.mark.parametrize("is_client_writing", [True, False])
@played_on_each_loop
async def test_paused_reader_stops_the_writer_in_bounded_memory(
    transport: Transport, name: str, is_client_writing: bool, small_window: int
) -> None:
    limit = ACCEPTED_LIMIT.get(name, small_window + HIGH_WATER + len(CHUNK))
    async with pair_of(transport) as pair:
        writer, reader = pair.ends if is_client_writing else pair.ends[::-1]
        reader.transport.pause_reading()
        assert not reader.transport.is_reading()
        taken = await write_until_stopped(writer)
        assert writer.facts.count("pause") == writer.facts.count("resume") + 1
        assert len(taken) <= limit
        assert writer.transport.get_write_buffer_size() <= HIGH_WATER + len(CHUNK)
        assert reader.received == b""

        reader.transport.resume_reading()
        await writer.until(lambda end: not end.is_writing_paused)
        send(writer, b"last")
        await reader.until_bytes(len(taken) + 4)
        assert bytes(reader.received) == taken + b"last"


@played_on_each_loop
async def test_reader_may_pause_inside_data_received(transport: Transport) -> None:
    class Hesitant(Recorder):
        def data_received(self, data: bytes) -> None:
            assert self.transport.is_reading()
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    data = noise(6, 400_000)
    async with listening(transport) as (listener, accepted):
        client = Hesitant()
        await transport.connect(dialing(listener.address), lambda: client)
        server = await accepted.get()
        await server.until_fact("made")
        send(server, data)
        server.transport.close()
        await client.until_fact("eof")
        assert client.received == data
        client.transport.close()
        await client.until_fact("lost")


@played_on_each_loop
async def test_another_protocol_can_take_over(transport: Transport) -> None:
    async with pair_of(transport) as pair:
        stream = pair.client.transport
        successor = Recorder()
        successor.connection_made(stream)
        stream.set_protocol(successor)
        assert stream.get_protocol() is successor
        send(pair.server, b"for the successor")
        await successor.until_bytes(17)
        assert pair.client.received == b""
        stream.set_protocol(pair.client)


@played_on_each_loop
async def test_streams_tell_who_the_peer_is(transport: Transport, name: str) -> None:
    async with pair_of(transport) as pair:
        address = pair.listener.address
        client, server = pair.client.transport, pair.server.transport
        assert client.get_extra_info("peername") == (address.host, address.port)
        assert server.get_extra_info("peername") == client.get_extra_info("sockname")
        assert client.get_extra_info("peer_key") == (None if name == "tcp" else PUBLIC)
        assert server.get_extra_info("peer_key") is None
        assert client.get_extra_info("nothing", "default") == "default"


def test_datagrams_are_there_on_both_ends_or_on_neither(
    run: Run, transport: Transport, name: str
) -> None:
    async def dialogue() -> None:
        async with pair_of(transport) as pair:
            found = [end.transport.get_extra_info("datagrams") for end in pair.ends]
            if name not in QUIC:
                assert found == [None, None]
                return
            for end, datagrams in zip(pair.ends, found, strict=True):
                datagrams.on_datagram = end.take_datagram
            for first, second in (pair.ends, pair.ends[::-1]):
                datagrams = first.transport.get_extra_info("datagrams")
                largest = bytes(datagrams.max_bytes)
                assert datagrams.send(b"")
                assert datagrams.send(largest)
                assert not datagrams.send(largest + b"x")
                await second.until(lambda end: len(end.datagrams) == 2)
                assert second.datagrams == [b"", largest]
                assert second.received == b""

    run(dialogue())


@played_on_each_loop
async def test_datagrams_after_the_end_are_lost(transport: Transport, name: str) -> None:
    async with pair_of(transport) as pair:
        ends = [end.transport.get_extra_info("datagrams") for end in pair.ends]
        pair.client.transport.abort()
        await pair.server.until_fact("lost")
        for datagrams in ends:
            assert datagrams is None or not datagrams.send(b"")


@pytest.mark.parametrize("name", sorted({"memory"} | QUIC))
@played_on_each_loop
async def test_peer_key_that_nobody_checks_is_refused(name: str) -> None:
    transport = TRANSPORTS[name]()
    async with listening(transport) as (listener, accepted):
        unchecked = Dialing(listener.address, PlainSockets(), timeout_s=5.0)
        with pytest.raises(AuthenticationError, match="not known which key"):
            await transport.connect(unchecked, Recorder)
        assert accepted.empty()


@pytest.mark.parametrize("name", sorted({"memory"} | QUIC))
@played_on_each_loop
async def test_refused_peer_key_ends_the_connect_before_any_stream(name: str) -> None:
    transport = TRANSPORTS[name]()
    seen: list[bytes] = []

    def check_peer(key: bytes) -> None:
        seen.append(key)
        raise AuthenticationError("not the pinned key")

    async with listening(transport) as (listener, accepted):
        with pytest.raises(AuthenticationError, match=r"^not the pinned key$"):
            await transport.connect(dialing(listener.address, check_peer=check_peer), Recorder)
        await asyncio.sleep(0.05)
        assert accepted.empty()
        assert seen == [PUBLIC]


@played_on_each_loop
async def test_nobody_listening_is_said_at_once(transport: Transport, name: str) -> None:
    kind = socket.SOCK_DGRAM if name in QUIC else socket.SOCK_STREAM
    address = Address("127.0.0.1", free_port(kind))
    began = time.monotonic()
    with pytest.raises(TransportError, match=f"cannot reach {address}: connection refused; "):
        await transport.connect(dialing(address), Recorder)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("name", ["quic", "tcp"])
@played_on_each_loop
async def test_unknown_name_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(address: Address, kind: socket.SocketKind) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dial, "resolve", resolve)
    with pytest.raises(TransportError, match="name cannot be resolved"):
        await TRANSPORTS[name]().connect(dialing(Address("nowhere.invalid", 1)), Recorder)


@pytest.mark.parametrize("name", ["quic", "tcp"])
@played_on_each_loop
async def test_silence_is_a_timeout_and_leaves_nothing_open(name: str) -> None:
    kind = socket.SOCK_DGRAM if name == "quic" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            # A full backlog: the kernel drops further SYNs.
            silent.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(silent.getsockname())
        address = Address(*silent.getsockname())
        with pytest.raises(TransportError, match=r"no answer within 0\.3 s"):
            await TRANSPORTS[name]().connect(dialing(address, timeout_s=0.3), Recorder)
        if kind == socket.SOCK_STREAM:
            for filler in fillers:
                filler.close()


@played_on_each_loop
async def test_address_in_use_is_said(transport: Transport) -> None:
    async with listening(transport) as (listener, _):
        with pytest.raises(TransportError, match=r"cannot listen on .*already"):
            await transport.listen(Listening(listener.address, SEED), Recorder)


@pytest.mark.parametrize("name", ["quic", "tcp"])
@played_on_each_loop
async def test_what_is_no_name_is_said(name: str) -> None:
    with pytest.raises(TransportError, match=r"cannot listen on .*not a host name"):
        await TRANSPORTS[name]().listen(Listening(Address("a..b", 1), SEED), Recorder)


@played_on_each_loop
async def test_closed_listener_resets_its_streams_and_frees_its_address(
    transport: Transport,
) -> None:
    async with pair_of(transport) as pair:
        await pair.listener.close()
        for end in pair.ends:
            await end.until_fact("lost")
        assert isinstance(pair.client.error, ConnectionResetError)
        with pytest.raises(TransportError, match="refused"):
            await transport.connect(dialing(pair.listener.address), Recorder)
        again = await transport.listen(Listening(pair.listener.address, SEED), Recorder)
        await again.close()


@pytest.mark.parametrize("name", ["quic", "tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@played_on_each_loop
async def test_any_address_listens_for_both_families(name: str, host: str) -> None:
    transport = TRANSPORTS[name]()
    async with listening(transport, "::") as (listener, accepted):
        client = Recorder()
        address = Address(host, listener.address.port)
        await transport.connect(dialing(address), lambda: client)
        server = await accepted.get()
        await server.until_fact("made")
        assert server.transport.get_extra_info("peername")[0] == host
        client.transport.abort()
        await server.until_fact("lost")


@played_on_each_loop
async def test_many_streams_of_one_listener_do_not_mix(transport: Transport) -> None:
    async with listening(transport) as (listener, accepted):
        clients = [Recorder() for _ in range(5)]
        for number, client in enumerate(clients):
            await transport.connect(dialing(listener.address), lambda client=client: client)
            send(client, bytes([number]) * 1000)
        for _ in clients:
            server = await accepted.get()
            await server.until_bytes(1000)
            assert len(set(server.received)) == 1
            send(server, server.received)
        for number, client in enumerate(clients):
            await client.until_bytes(1000)
            assert client.received == bytes([number]) * 1000
            client.transport.abort()
