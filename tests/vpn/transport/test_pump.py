"""Each row of the table in vpn.transport.pump: what one side sees, the other side does."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from dialogues import dialogue
from transport_lab import Recorder, until

from vpn.transport.memory import memory_pair
from vpn.transport.pump import WRITE_BUFFER_BYTES, Pump


class Joined(AbstractAsyncContextManager):
    """An application's socket, a pump, and whoever is at the end of the channel."""

    def __init__(self) -> None:
        self.pump = Pump()
        self.channel_end = Recorder()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.app = socket.create_connection(listener.getsockname())
            self.flow, _ = listener.accept()
        self.app.setblocking(False)
        self.ended: list[Pump] = []
        self._ended = asyncio.Event()
        self.pump.on_done(self.ended.append)
        self.pump.on_done(lambda _: self._ended.set())

    async def bring_channel(self) -> None:
        memory_pair(self.pump.far, self.channel_end)
        await self.channel_end.until_fact("made")

    async def bring_socket(self) -> None:
        await self.pump.attach(self.flow)

    async def open(self) -> None:
        await self.bring_channel()
        await self.bring_socket()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.app, data)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.app, 1 << 20)

    async def __aexit__(self, error: object, *_: object) -> None:
        """It has ended by itself: nobody has closed the application's socket."""
        if error is None:
            await self._ended.wait()
            assert self.ended == [self.pump]
            assert self.pump.is_done
        self.app.close()


played = dialogue(Joined, run="run")


@played
async def test_data_passes_both_ways_and_is_counted(joined: Joined) -> None:
    await joined.open()
    await joined.send(b"up")
    await joined.channel_end.until_bytes(2)
    joined.channel_end.transport.write(b"down")
    assert await joined.receive() == b"down"
    assert (joined.pump.bytes_up, joined.pump.bytes_down) == (2, 4)
    joined.pump.abort()


@pytest.mark.parametrize("first", ["channel", "socket"])
@played
async def test_what_comes_before_the_other_side_is_up_is_not_lost(
    joined: Joined, first: str
) -> None:
    if first == "channel":
        await joined.bring_channel()
        joined.channel_end.transport.write(b"early")
        joined.channel_end.transport.write_eof()
        await asyncio.sleep(0.05)
        await joined.bring_socket()
        assert await joined.receive() == b"early"
        assert await joined.receive() == b""
        joined.app.shutdown(socket.SHUT_WR)
    else:
        await joined.send(b"early")
        joined.app.shutdown(socket.SHUT_WR)
        await joined.bring_socket()
        await asyncio.sleep(0.05)
        await joined.bring_channel()
        await joined.channel_end.until_fact("eof")
        assert joined.channel_end.received == b"early"
        joined.channel_end.transport.write_eof()


@pytest.mark.parametrize("first", ["socket", "channel"])
@played
async def test_ends_one_after_the_other_close_both(joined: Joined, first: str) -> None:
    await joined.open()
    await joined.send(b"last up")
    joined.channel_end.transport.write(b"last down")
    ends = [
        lambda: joined.app.shutdown(socket.SHUT_WR),
        joined.channel_end.transport.write_eof,
    ]
    for end in ends if first == "socket" else reversed(ends):
        end()
        await asyncio.sleep(0.01)
    await joined.channel_end.until_fact("lost")
    assert joined.channel_end.received == b"last up"
    assert joined.channel_end.error is None
    assert await joined.receive() == b"last down"
    assert await joined.receive() == b""


@played
async def test_reset_of_the_socket_aborts_the_channel(joined: Joined) -> None:
    await joined.open()
    joined.app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    joined.app.close()
    await joined.channel_end.until_fact("lost")
    assert isinstance(joined.channel_end.error, ConnectionResetError)


@played
async def test_abort_of_the_channel_resets_the_socket(joined: Joined) -> None:
    await joined.open()
    joined.channel_end.transport.abort()
    with pytest.raises(ConnectionResetError):
        await joined.receive()


@played
async def test_closed_channel_closes_the_socket_after_its_data(joined: Joined) -> None:
    """The peer of the channel read nothing more: what is sent now gets a RST."""
    await joined.open()
    joined.channel_end.transport.write(b"x" * 1_000_000)
    joined.channel_end.transport.close()
    received = 0
    while chunk := await joined.receive():
        received += len(chunk)
    assert received == 1_000_000
    with pytest.raises(ConnectionError):
        await joined.send(bytes(64 << 20))


@played
async def test_slow_application_stops_the_channel(joined: Joined) -> None:
    await joined.open()
    stream: Any = joined.channel_end.transport
    chunk = bytes(1 << 18)
    while not joined.channel_end.is_writing_paused:
        stream.write(chunk)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert joined.channel_end.is_writing_paused
    buffered = joined.pump.far.received
    assert buffered < 32 << 20
    while joined.channel_end.is_writing_paused:
        await joined.receive()
    joined.pump.abort()


@played
async def test_slow_channel_stops_the_application(joined: Joined) -> None:
    await joined.open()
    joined.channel_end.transport.pause_reading()
    sending = asyncio.create_task(joined.send(bytes(64 << 20)))
    last = -1
    while last != joined.pump.bytes_up:
        last = joined.pump.bytes_up
        await asyncio.sleep(0.05)
    assert not sending.done()
    assert last < 8 << 20
    joined.channel_end.transport.resume_reading()
    await sending
    joined.pump.abort()


@played
async def test_channel_lost_before_the_socket_comes(joined: Joined) -> None:
    await joined.bring_channel()
    joined.channel_end.transport.abort()
    await until(lambda: joined.pump.far.is_lost)
    await joined.bring_socket()
    with pytest.raises(ConnectionResetError):
        await joined.receive()


@pytest.mark.parametrize("turns", range(4))
@played
async def test_channel_lost_while_the_socket_comes(joined: Joined, turns: int) -> None:
    """The socket is closed once: by then its number may be another's."""
    await joined.bring_channel()
    joined.channel_end.transport.abort()
    for _ in range(turns):
        await asyncio.sleep(0)
    await joined.bring_socket()
    with pytest.raises(ConnectionResetError):
        await joined.receive()
    assert joined.flow.fileno() == -1


@played
async def test_socket_lost_before_the_channel_comes(joined: Joined) -> None:
    await joined.bring_socket()
    joined.app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    joined.app.close()
    await asyncio.sleep(0.05)  # asyncio does not look at a paused socket, uvloop does
    await joined.bring_channel()
    await joined.channel_end.until_fact("lost")
    assert isinstance(joined.channel_end.error, ConnectionResetError)


@played
async def test_aborted_without_a_socket_is_done(joined: Joined) -> None:
    await joined.bring_channel()
    joined.pump.abort()
    await joined.channel_end.until_fact("lost")
    assert isinstance(joined.channel_end.error, ConnectionResetError)
    await joined.bring_socket()  # too late
    with pytest.raises(ConnectionResetError):
        await joined.receive()


def test_done_is_told_at_once_if_it_is() -> None:
    pump = Pump()
    pump.abort()
    told: list[Pump] = []
    pump.on_done(told.append)
    assert told == [pump]


@played
async def test_attach_that_fails_closes_the_socket(joined: Joined) -> None:
    await joined.bring_channel()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unfit:
        with pytest.raises((OSError, ValueError)):
            await joined.pump.attach(unfit)
        assert unfit.fileno() == -1
    await joined.channel_end.until_fact("lost")
    joined.flow.close()


@played
async def test_small_writes_leave_at_once(joined: Joined) -> None:
    """TCP_NODELAY is set on sockets that others have made."""
    joined.flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    await joined.open()
    option = joined.pump.near._transport.get_extra_info("socket")  # type: ignore[union-attr]
    assert option.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    joined.pump.abort()


@played
async def test_buffer_of_a_socket_is_bounded_and_that_of_a_channel_its_own(joined: Joined) -> None:
    await joined.open()
    near, far = joined.pump.near._transport, joined.pump.far._transport
    assert near is not None
    assert far is not None
    assert near.get_write_buffer_limits()[1] == WRITE_BUFFER_BYTES  # type: ignore[attr-defined]
    assert far.get_extra_info("socket") is None
    joined.pump.abort()


class Told(asyncio.Transport):
    """A transport without I/O: what it is told, and `write_eof` fails if it is `broken`."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.told: list[object] = []
        self._broken = broken

    def write(self, data: Any) -> None:
        self.told.append(bytes(data))

    def write_eof(self) -> None:
        if self._broken:
            raise OSError("it was reset")
        self.told.append("end")

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return "abort" in self.told


def test_what_a_paused_side_reads_and_ends_waits_for_the_other_side() -> None:
    pump, near, far = Pump(), Told(), Told()
    pump.near.connection_made(near)
    pump.near.data_received(b"early")  # uvloop reads once although it was paused
    pump.near.eof_received()
    assert near.told == ["pause", "pause"]
    pump.far.connection_made(far)
    assert far.told == [b"early", "end"]
    assert near.told == ["pause", "pause"]  # after its end nothing is read any more


def test_end_that_cannot_be_written_is_a_reset() -> None:
    pump, near, far = Pump(), Told(), Told(broken=True)
    pump.near.connection_made(near)
    pump.far.connection_made(far)
    pump.near.eof_received()
    assert far.told == ["abort"]


def test_nothing_is_kept_for_a_side_that_is_lost(run: Callable) -> None:
    async def act() -> None:
        pump, near = Pump(), Told()
        pump.far.give_up()
        pump.near.connection_made(near)
        pump.near.data_received(b"late")
        assert near.told == []
        await asyncio.sleep(0)
        assert near.told == ["abort"]

    run(act())


@pytest.mark.parametrize("lost", ["near", "far"])
@played
async def test_socket_for_a_pump_that_has_lost_a_side_is_reset_at_once(
    joined: Joined, lost: str
) -> None:
    getattr(joined.pump, lost).give_up()
    await joined.bring_socket()
    assert joined.flow.fileno() == -1
    assert joined.pump.near.is_lost
    joined.pump.far.give_up()
    with pytest.raises(ConnectionResetError):
        await joined.receive()
