"""The server's end of a connection waits for its client, and knows who that is."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AbstractAsyncContextManager

import pytest
from dialogues import dialogue

from shim.protocol.common import Hello
from shim.protocol.link import Link, LinkClosedError, ViolationError
from vpn.control.messages import CLIENT, VERSION, GetStatus, Warned
from vpn.control.peer import Peer, receive, uid_of


class Bench(AbstractAsyncContextManager):
    """The server's end of a connection, and the client's."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer, self.client = Peer(theirs), Link(ours, CLIENT)

    async def __aexit__(self, *_: object) -> None:
        self.peer.close()
        self.client.close()


played = dialogue(Bench)


def test_user_is_who_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert uid_of(theirs) == os.geteuid()


@played
async def test_message_is_waited_for(bench: Bench) -> None:
    receiving = asyncio.create_task(bench.peer.receive())
    await asyncio.sleep(0.01)
    assert not receiving.done()
    bench.client.send(Hello(VERSION))
    assert await receiving == Hello(VERSION)
    bench.client.send(GetStatus())
    assert await bench.peer.receive() == GetStatus()


@played
async def test_message_waits_for_room(bench: Bench) -> None:
    warning, sent = Warned("x" * 9000), 0
    while True:
        try:
            await asyncio.wait_for(bench.peer.send(warning), 0.1)
        except TimeoutError:
            break
        sent += 1
    assert sent > 1
    sending = asyncio.create_task(bench.peer.send(Warned("last")))
    received = [await receive(bench.client) for _ in range(sent + 1)]
    assert received == [*[(warning, [])] * sent, (Warned("last"), [])]
    await sending


@played
async def test_end_of_the_client_is_noticed(bench: Bench) -> None:
    hanging_up = asyncio.create_task(bench.peer.hang_up())
    await asyncio.sleep(0.01)
    assert not hanging_up.done()
    bench.client.close()
    await hanging_up
    with pytest.raises(LinkClosedError):
        await bench.peer.receive()
    with pytest.raises(LinkClosedError):
        await bench.peer.send(Warned("to nobody"))


@pytest.mark.parametrize("packet", [b"nonsense", b"\x91\xaaget-status"])
@played
async def test_client_that_says_more_than_it_may_is_as_good_as_gone(
    bench: Bench, packet: bytes
) -> None:
    bench.client._sock.send(packet)
    await bench.peer.hang_up()


@played
async def test_rule_that_is_broken_is_a_violation(bench: Bench) -> None:
    bench.client._sock.send(b"nonsense")
    with pytest.raises(ViolationError):
        await bench.peer.receive()


@played
async def test_waiting_that_is_cancelled_leaves_nothing_behind(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.peer.receive(), 0.01)
    assert not asyncio.get_running_loop().remove_reader(bench.peer._link.fileno())
