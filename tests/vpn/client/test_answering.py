"""Whoever connects to a local listener is answered, if need be a little later."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from descriptors import none_left

from vpn.client.answering import Answering, question_of


async def echo(sock: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, await question_of(sock))


def test_who_connects_while_no_descriptor_is_left_is_answered_later(tmp_path: Path) -> None:
    async def dialogue(listener: socket.socket, asker: socket.socket) -> None:
        serving = asyncio.create_task(Answering(listener, echo).serve())
        await asyncio.sleep(0)
        asker.connect(str(tmp_path / "socket"))
        asker.send(b"question")
        with none_left():
            await asyncio.sleep(0.05)
        assert not serving.done()
        asker.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(asker, 99) == b"question"
        serving.cancel()

    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asker,
    ):
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        asyncio.run(dialogue(listener, asker))
