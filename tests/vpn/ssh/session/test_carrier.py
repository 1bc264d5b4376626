"""Between the stream and asyncssh: last words leave, pauses are passed on, memory is bounded."""

import asyncio
from typing import Any

import pytest
from ssh_lab import LOOPBACK, Keys, destination, session_of, tcp_pair
from transport_lab import Recorder, played_on_each_loop

from vpn.ssh.session import carrier as carrier_module
from vpn.ssh.session.carrier import PIECE_BYTES, Carrier
from vpn.ssh.session.pressure import Pressure
from vpn.transport.base import HIGH_WATER
from vpn.transport.memory import MemoryTransport, memory_pair
from vpn.transport.pump import Pump

CHUNK = 256 << 10  # the most that one read gives


class Below:
    """A carrier with a recording SSH connection, and the peer's end of the stream."""

    def __init__(self) -> None:
        self.ssh = Recorder()
        self.pressure = Pressure(asyncio.get_running_loop())
        self.carrier = Carrier(self.ssh, self.pressure)
        self.peer = Recorder()

    async def open(self) -> "Below":
        memory_pair(self.carrier, self.peer, {"socket": "secret", "peername": ("192.0.2.1", 9)})
        await self.peer.until_fact("made")
        await self.ssh.until_fact("made")
        return self


@played_on_each_loop
async def test_last_words_leave_before_an_abort() -> None:
    below = await Below().open()
    below.carrier.write(b"farewell")
    below.carrier.abort()
    await below.peer.until_fact("eof")
    assert below.peer.received == b"farewell"
    below.peer.transport.close()
    await below.ssh.until_fact("lost")


@played_on_each_loop
async def test_nothing_is_heard_after_an_abort() -> None:
    below = await Below().open()
    below.carrier.abort()
    below.carrier.data_received(b"too late")
    assert below.ssh.received == b""
    below.peer.transport.close()
    await below.ssh.until_fact("lost")


@played_on_each_loop
async def test_abort_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier_module, "FAREWELL_S", 0.05)
    below = await Below().open()
    stream = below.carrier._stream
    monkeypatch.setattr(type(stream), "_flushed", lambda self: False)
    below.carrier.abort()
    await below.ssh.until_fact("lost")
    await below.peer.until_fact("lost")
    assert isinstance(below.peer.error, ConnectionResetError)


@played_on_each_loop
async def test_asyncssh_gets_no_socket_to_play_with() -> None:
    below = await Below().open()
    assert below.carrier.get_extra_info("socket") is None
    assert below.carrier.get_extra_info("peername") == ("192.0.2.1", 9)
    below.peer.transport.abort()
    await below.ssh.until_fact("lost")


@played_on_each_loop
async def test_bytes_arrive_whole_in_pieces() -> None:
    below = await Below().open()
    data = bytes(range(256)) * (PIECE_BYTES // 100)
    below.peer.transport.write(data)
    await below.ssh.until_bytes(len(data))
    assert below.ssh.received == data
    below.peer.transport.abort()
    await below.ssh.until_fact("lost")


@played_on_each_loop
async def test_peer_that_never_reads_our_answers_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrier_module, "UNREAD_ANSWERS_BYTES", 4 * HIGH_WATER)
    below = await Below().open()
    below.peer.transport.pause_reading()
    for _ in range(100):
        below.carrier.write(bytes(CHUNK))
        below.carrier.data_received(b"one more question")
        await asyncio.sleep(0)
    await below.ssh.until_fact("lost")
    await below.peer.until_fact("lost")


@played_on_each_loop
async def test_many_flows_into_a_full_stream_hold_one_read_each(keys: Keys) -> None:
    """Without pressure, asyncssh would take all they have."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = 0
        while data := await reader.read(1 << 20):
            received += len(data)
        totals.put_nowait(received)

    totals: asyncio.Queue[int] = asyncio.Queue()
    async with session_of(keys, MemoryTransport({})) as session, destination(swallow) as port:
        flows = 20
        applications = []
        for _ in range(flows):
            pump: Pump = await session.open(LOOPBACK, port)
            application, flow = tcp_pair()
            application.setblocking(False)
            await pump.attach(flow)
            applications.append(application)
        stream: Any = session._connection._transport._stream
        stream._peer.pause_reading()
        loop = asyncio.get_running_loop()
        data = bytes(8 << 20)
        sending = [asyncio.create_task(loop.sock_sendall(each, data)) for each in applications]
        highest = 0
        for _ in range(100):
            await asyncio.sleep(0.002)
            highest = max(highest, stream.get_write_buffer_size())
        assert HIGH_WATER < highest < HIGH_WATER + (flows + 4) * (CHUNK + 1000)
        stream._peer.resume_reading()
        await asyncio.gather(*sending)
        for application in applications:
            application.close()
        assert [await totals.get() for _ in range(flows)] == [len(data)] * flows
