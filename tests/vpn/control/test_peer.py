"""The server's end of a connection waits for its client, and knows who that is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from shim.protocol.common import Hello
from shim.protocol.link import Link, LinkClosedError, ViolationError
from vpn.control.messages import CLIENT, VERSION, GetStatus, Warned
from vpn.control.peer import Peer, receive, uid_of

Dialogue = Callable[[Peer, Link], Awaitable[None]]


def play(dialogue: Dialogue) -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer, client = Peer(theirs), Link(ours, CLIENT)
        await asyncio.wait_for(dialogue(peer, client), 10)
        peer.close()
        client.close()

    asyncio.run(act())


def test_user_is_who_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert uid_of(theirs) == os.geteuid()


def test_message_is_waited_for() -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        receiving = asyncio.create_task(peer.receive())
        await asyncio.sleep(0.01)
        assert not receiving.done()
        client.send(Hello(VERSION))
        assert await receiving == Hello(VERSION)
        client.send(GetStatus())
        assert await peer.receive() == GetStatus()

    play(dialogue)


def test_message_waits_for_room() -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        warning, sent = Warned("x" * 9000), 0
        while True:
            try:
                await asyncio.wait_for(peer.send(warning), 0.1)
            except TimeoutError:
                break
            sent += 1
        assert sent > 1
        sending = asyncio.create_task(peer.send(Warned("last")))
        received = [await receive(client) for _ in range(sent + 1)]
        assert received == [*[(warning, [])] * sent, (Warned("last"), [])]
        await sending

    play(dialogue)


def test_end_of_the_client_is_noticed() -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        hanging_up = asyncio.create_task(peer.hang_up())
        await asyncio.sleep(0.01)
        assert not hanging_up.done()
        client.close()
        await hanging_up
        with pytest.raises(LinkClosedError):
            await peer.receive()
        with pytest.raises(LinkClosedError):
            await peer.send(Warned("to nobody"))

    play(dialogue)


@pytest.mark.parametrize("packet", [b"nonsense", b"\x91\xaaget-status"])
def test_client_that_says_more_than_it_may_is_as_good_as_gone(packet: bytes) -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        client._sock.send(packet)
        await peer.hang_up()

    play(dialogue)


def test_rule_that_is_broken_is_a_violation() -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        client._sock.send(b"nonsense")
        with pytest.raises(ViolationError):
            await peer.receive()

    play(dialogue)


def test_waiting_that_is_cancelled_leaves_nothing_behind() -> None:
    async def dialogue(peer: Peer, client: Link) -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.receive(), 0.01)
        assert not asyncio.get_running_loop().remove_reader(peer._link.fileno())

    play(dialogue)
