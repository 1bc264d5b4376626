"""A capture has one reader, survives its gate, and ends once."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AbstractAsyncContextManager

import pytest
from dialogues import dialogue

from shim.protocol.gate import Copy
from shim.protocol.handover import adopt
from shim.protocol.link import Link, LinkClosedError, Message
from shim.protocol.tap import TAP, Tapped
from vpn.client import packet_tap
from vpn.client.packet_tap import PacketTap


class Bench(AbstractAsyncContextManager):
    """A tap, and what its gates were sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.tap = PacketTap(self.send)

    async def __aexit__(self, *_: object) -> None:
        for fd in self.sent:
            os.close(fd)

    def send(self, message: Message, fds: tuple[int, ...]) -> None:
        assert message == Copy()
        self.sent += fds

    def begin(self) -> Link:
        reader = self.tap.begin()
        assert reader is not None
        return adopt(reader.detach(), TAP)

    def gate(self) -> Link:
        """Return the end of the gate that was started last."""
        return adopt(self.sent.pop(), TAP)


played = dialogue(Bench)


@played
async def test_gate_without_a_capture_is_told_nothing(bench: Bench) -> None:
    bench.tap.on_started()
    bench.tap.end()
    assert (bench.sent, bench.tap.is_active) == ([], False)


@played
async def test_capture_joins_the_gate_and_its_reader(bench: Bench) -> None:
    reader = bench.begin()
    assert bench.tap.is_active
    gate = bench.gate()
    assert gate.send(Tapped())
    assert reader.receive() == (Tapped(), [])
    for each in (reader, gate):
        each.close()
    bench.tap.end()


@played
async def test_second_capture_is_refused_until_the_first_is_over(bench: Bench) -> None:
    first = bench.begin()
    assert bench.tap.begin() is None
    assert len(bench.sent) == 1
    bench.tap.end()
    first.close()
    bench.begin().close()
    assert len(bench.sent) == 2
    bench.tap.end()


@played
async def test_gate_that_follows_another_copies_to_the_same_reader(bench: Bench) -> None:
    reader = bench.begin()
    bench.gate().close()
    bench.tap.on_started()
    gate = bench.gate()
    assert gate.send(Tapped())
    assert reader.receive() == (Tapped(), [])
    reader.close()
    gate.close()
    bench.tap.end()


@played
async def test_reader_learns_of_the_end_when_no_gate_copies_any_more(bench: Bench) -> None:
    reader = bench.begin()
    waiting = asyncio.create_task(bench.tap.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.tap.end()
    bench.tap.end()
    await waiting
    assert not bench.tap.is_active
    assert reader.receive() is None
    bench.gate().close()
    with pytest.raises(LinkClosedError):
        reader.receive()
    reader.close()


@played
async def test_capture_that_follows_another_is_waited_for_anew(bench: Bench) -> None:
    bench.begin().close()
    bench.tap.end()
    bench.begin().close()
    waiting = asyncio.create_task(bench.tap.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.tap.end()
    await waiting


@played
async def test_room_for_packets_is_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_tap, "BUFFER_BYTES", 9000)
    bench.begin().close()
    sock = socket.socket(fileno=bench.sent.pop())
    with sock:
        # The kernel doubles what is asked for (socket(7)).
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 18000
    bench.tap.end()
