"""What TCP does at one end of a flow happens at the other: T2 of the acceptance cases."""

import asyncio
import hashlib
import os
import select
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ssh_lab import (
    Keys,
    Sshd,
    destination,
    echo,
    flow_to,
    session_of,
    session_with_sshd,
    tcp_pair,
)
from transport_lab import played_on_each_loop

from vpn.transport.memory import MemoryTransport
from vpn.transport.tcp import TcpTransport

TRANSFER = os.urandom(1 << 20) * 10


async def done(pump: Any) -> Any:
    future = asyncio.get_running_loop().create_future()
    pump.on_done(future.set_result)
    return await future


async def reset(pump: Any, reading: Awaitable[bytes]) -> None:
    """A flow has ended, with a reset for who reads."""
    with pytest.raises(ConnectionResetError):
        await reading
    await done(pump)


@pytest.fixture(params=["memory", "tcp"])
def transport(request: pytest.FixtureRequest) -> Any:
    return MemoryTransport({}) if request.param == "memory" else TcpTransport()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 1 << 16):
        writer.write(data[start : start + (1 << 16)])
        await writer.drain()


@played_on_each_loop
async def test_transfer_both_ways_at_once_arrives_whole(keys: Keys, transport: Any) -> None:
    async with session_of(keys, transport) as session, destination(echo) as port:
        reader, writer, pump = await flow_to(session, port)
        sending = asyncio.create_task(send(writer, TRANSFER))
        received = await reader.readexactly(len(TRANSFER))
        await sending
        assert hashlib.sha256(received).digest() == hashlib.sha256(TRANSFER).digest()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await done(pump)
        assert (pump.bytes_up, pump.bytes_down) == (len(TRANSFER), len(TRANSFER))


class Raw:
    """A destination whose socket the test drives by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    async def accept(self) -> socket.socket:
        accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        accepted.setblocking(False)
        return accepted


@asynccontextmanager
async def unattached_flow(session: Any) -> Any:
    """A flow without an application, and the destination's socket."""
    raw = Raw()
    with raw.listener:
        accepting = asyncio.create_task(raw.accept())
        pump = await session.open("127.0.0.1", raw.port)
        with await accepting as far:
            yield pump, far


@asynccontextmanager
async def raw_flow(session: Any) -> Any:
    """An application's stream and the destination's socket, joined by a flow."""
    raw = Raw()
    with raw.listener:
        accepting = asyncio.create_task(raw.accept())
        reader, writer, pump = await flow_to(session, raw.port)
        far = await accepting
        with far:
            yield reader, writer, far, pump
        writer.close()


def reset_on_close(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    chunks = []
    while chunk := await loop.sock_recv(sock, 1 << 18):
        chunks.append(chunk)
    return b"".join(chunks)


@played_on_each_loop
async def test_half_closed_by_application_still_receives(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, writer, far, pump):
        writer.write(b"request")
        writer.write_eof()
        assert await read_all(far) == b"request"
        sending = asyncio.get_running_loop().sock_sendall(far, TRANSFER)
        received, _ = await asyncio.gather(reader.readexactly(len(TRANSFER)), sending)
        far.close()
        assert received == TRANSFER
        assert await reader.read() == b""
        await done(pump)


@played_on_each_loop
async def test_half_closed_by_destination_still_receives(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, writer, far, pump):
        far.shutdown(socket.SHUT_WR)
        assert await reader.read() == b""
        receiving = asyncio.create_task(read_all(far))
        await send(writer, TRANSFER)
        writer.write_eof()
        assert await receiving == TRANSFER
        await done(pump)


@played_on_each_loop
async def test_both_closing_at_once_lose_nothing(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, writer, far, pump):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(far, b"from the destination")
        writer.write(b"from the application")
        writer.write_eof()
        far.shutdown(socket.SHUT_WR)
        assert await reader.read() == b"from the destination"
        assert await read_all(far) == b"from the application"
        await done(pump)


@played_on_each_loop
async def test_reset_by_destination_arrives_as_reset(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, _writer, far, pump):
        reset_on_close(far)
        far.close()
        await reset(pump, reader.read())


@played_on_each_loop
async def test_reset_by_application_arrives_as_reset(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (_reader, writer, far, pump):
        reset_on_close(writer.get_extra_info("socket"))
        writer.transport.abort()
        await reset(pump, asyncio.get_running_loop().sock_recv(far, 1))


@played_on_each_loop
async def test_closed_by_application_with_unread_data_is_a_reset(keys: Keys) -> None:
    async with session_of(keys) as session, unattached_flow(session) as (pump, far):
        application, flow = tcp_pair()
        await pump.attach(flow)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(far, b"never read")
        await wait_until(lambda: is_readable(application))
        application.close()
        await reset(pump, loop.sock_recv(far, 1))


@played_on_each_loop
async def test_closed_by_destination_with_unread_data_is_a_reset(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, writer, far, pump):
        writer.write(b"never read")
        await wait_until(lambda: is_readable(far))
        far.close()
        await reset(pump, reader.read())


@played_on_each_loop
async def test_data_sent_to_a_closed_destination_is_answered_by_a_reset(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, writer, far, pump):
        await asyncio.get_running_loop().sock_sendall(far, b"bye")
        far.close()
        assert await reader.read() == b"bye"
        with pytest.raises(ConnectionError):
            await send(writer, TRANSFER)
        await done(pump)


@played_on_each_loop
async def test_session_closed_in_mid_transfer_is_a_reset_not_an_end(keys: Keys) -> None:
    async with session_of(keys) as session, raw_flow(session) as (reader, _writer, far, pump):
        await asyncio.get_running_loop().sock_sendall(far, b"half of it")
        assert await reader.readexactly(10) == b"half of it"
        await session.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await reset(pump, asyncio.get_running_loop().sock_recv(far, 1))
        assert session.closed.result() == "closed"


@pytest.mark.parametrize("server", ["ours", "sshd"])
@played_on_each_loop
async def test_reader_that_stops_stops_the_sender_and_loses_nothing(
    keys: Keys, start_sshd: Callable, server: str
) -> None:
    """The far end sends more than all windows hold, then ends; the reader comes back later."""
    session_maker = session_of(keys) if server == "ours" else session_with_sshd(keys, start_sshd())
    async with session_maker as session, raw_flow(session) as (reader, writer, far, pump):
        writer.write_eof()  # then sshd sends CLOSE right behind its EOF
        reader._transport.pause_reading()
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(far, TRANSFER * 4))
        await wait_until_still(lambda: pump.bytes_down)
        assert not sending.done()
        assert pump.bytes_down < len(TRANSFER) * 2
        reader._transport.resume_reading()
        received = asyncio.create_task(reader.readexactly(len(TRANSFER) * 4))
        await sending
        far.close()
        assert await received == TRANSFER * 4
        assert await reader.read() == b""
        await done(pump)


@played_on_each_loop
async def test_end_behind_unread_data_is_an_end_through_sshd(
    keys: Keys, start_sshd: Callable
) -> None:
    """EOF and CLOSE overtake data which the application has not read yet."""
    async with session_with_sshd(keys, start_sshd()) as session:
        async with unattached_flow(session) as (pump, far):
            # Nothing is attached yet: all of it waits in the channel.
            await asyncio.get_running_loop().sock_sendall(far, b"x" * 100_000)
        application, flow = tcp_pair()
        await asyncio.sleep(0.2)
        await pump.attach(flow)
        reader, writer = await asyncio.open_connection(sock=application)
        writer.write_eof()
        assert await reader.read() == b"x" * 100_000
        writer.close()
        await done(pump)


@played_on_each_loop
async def test_connection_broken_in_mid_transfer_is_a_reset(
    keys: Keys, start_sshd: Callable
) -> None:
    sshd: Sshd = start_sshd()
    async with session_with_sshd(keys, sshd) as session:
        async with raw_flow(session) as (reader, _writer, far, pump):
            await asyncio.get_running_loop().sock_sendall(far, b"half of it")
            assert await reader.readexactly(10) == b"half of it"
            kill_children(sshd.process.pid)
            await reset(pump, reader.read())
        assert (await session.closed).startswith("the connection broke")


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


async def wait_until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 - the kernel's state: nobody sets an event
        await asyncio.sleep(0.01)


async def wait_until_still(value: Callable[[], int]) -> None:
    """Wait until a value has moved, and then has not for a while."""
    last, since = value(), 0
    while not last or since < 20:
        await asyncio.sleep(0.02)
        since = since + 1 if value() == last else 0
        last = value()


def kill_children(pid: int) -> None:
    """Kill the sessions of an sshd."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        for grandchild in Path(f"/proc/{child}/task/{child}/children").read_text().split():
            os.kill(int(grandchild), signal.SIGKILL)
        os.kill(int(child), signal.SIGKILL)
