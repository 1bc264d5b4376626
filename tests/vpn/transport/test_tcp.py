"""TCP beyond what every transport promises."""

import asyncio
import errno
import socket
import time

from transport_lab import Recorder, dialing, pair_of, played_on_each_loop

from vpn.transport.base import Address
from vpn.transport.tcp import MAX_SEGMENT_BYTES, TcpStream, TcpTransport

ROUNDS = 60
DELAYED_ACK_S = 0.04  # the least Linux delays an ACK (net/tcp.h, TCP_DELACK_MIN)


@played_on_each_loop
async def test_peer_with_nagle_does_not_wait_for_delayed_acks() -> None:
    """As sshd does: a small packet right after another, held until the first is acknowledged."""

    async def serve(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(listener)
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            while await loop.sock_recv(peer, 100):
                await loop.sock_sendall(peer, b"answer")
                await loop.sock_sendall(peer, b"end")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = asyncio.create_task(serve(listener))
        client = Recorder()
        address = Address(*listener.getsockname())
        await TcpTransport().connect(dialing(address), lambda: client)
        began = time.monotonic()
        for number in range(1, ROUNDS + 1):
            client.transport.write(b"request")
            await client.until_bytes(9 * number)
        assert time.monotonic() - began < ROUNDS * DELAYED_ACK_S / 4
        client.transport.close()
        await server
        await client.until_fact("lost")


@played_on_each_loop
async def test_small_writes_are_sent_at_once_in_segments_that_fit_every_path() -> None:
    async with pair_of(TcpTransport()) as pair:
        for end in pair.ends:
            sock = end.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= MAX_SEGMENT_BYTES


@played_on_each_loop
async def test_reset_met_when_writing_is_a_reset() -> None:
    async with pair_of(TcpTransport()) as pair:
        stream = pair.client.transport
        assert isinstance(stream, TcpStream)
        stream.connection_lost(BrokenPipeError(errno.EPIPE, "Broken pipe"))
        assert isinstance(pair.client.error, ConnectionResetError)
        assert stream.is_closing()
        stream._below.abort()
        stream.connection_lost = lambda exc: None  # type: ignore[method-assign]
