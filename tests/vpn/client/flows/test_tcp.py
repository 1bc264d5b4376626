"""The client's part in a flow: asked, opened or refused, joined, and told when it has ended."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AbstractAsyncContextManager

import pytest
from dialogues import dialogue
from msgspec.structs import astuple

from shim.protocol.gate import (
    MAX_KNOWN,
    Adopt,
    Cancel,
    Closed,
    Known,
    Open,
    Opened,
    Reason,
    Refused,
)
from shim.protocol.link import Message
from vpn.client.flows import tcp as module
from vpn.client.flows.tcp import Flows, source_of
from vpn.control.messages import FlowStatus
from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.pump import Pump

KEY = bytes(12)


class FarEnd:
    """A session whose destinations are sockets of the test."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.failure: Failure | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.far, self._inner = socket.socketpair()
        self.far.setblocking(False)

    async def open(self, host: str, port: int) -> Pump:
        self.asked.append((host, port))
        await self.gate.wait()
        if self.failure is not None:
            raise OpenFailed(self.failure)
        pump = Pump()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: pump.far, sock=self._inner)
        return pump

    def close(self) -> None:
        self.far.close()
        self._inner.close()


class Bench(AbstractAsyncContextManager):
    """The flows of a gate, a far end, and what the gate is told."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.far_end = FarEnd()
        self.flows = Flows(self.far_end, self.said.append)

    async def __aexit__(self, *_: object) -> None:
        self.far_end.close()

    async def open(self) -> None:
        """Have a flow, of the number 7, that the far end has opened, or refused."""
        self.flows.on_open(Open(7, KEY, "192.0.2.1", 80))
        await heard(self.said)

    async def begin(self) -> None:
        """Have a flow, of the number 7, that the far end does not open yet."""
        self.far_end.gate.clear()
        self.flows.on_open(Open(7, KEY, "www.example.com", 443))
        await asyncio.sleep(0.01)


played = dialogue(Bench)


async def heard(said: list[Message], count: int = 1) -> None:
    for _ in range(5000):
        if len(said) >= count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it was never said")


def accept(flows: Flows, number: int) -> socket.socket:
    """Hand a connected socket over as the gate does, and return the application's end."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        app = socket.create_connection(listener.getsockname()[:2])
        accepted, _ = listener.accept()
    app.setblocking(False)
    flows.on_accepted(number, accepted.detach())
    return app


@played
async def test_opened_is_said_after_the_far_end_has_opened(bench: Bench) -> None:
    await bench.begin()
    assert bench.far_end.asked == [("www.example.com", 443)]
    assert bench.said == []
    bench.far_end.gate.set()
    await heard(bench.said)
    assert bench.said == [Opened(7)]
    bench.flows.abort()


@pytest.mark.parametrize("failure", list(Failure))
@played
async def test_each_failure_has_its_reason(bench: Bench, failure: Failure) -> None:
    bench.far_end.failure = failure
    await bench.open()
    assert bench.said == [Refused(7, module.REASONS[failure])]
    assert bench.flows.counters.refused == 1


def test_refusal_of_the_far_end_is_a_refusal_and_a_rule_is_a_denial() -> None:
    assert module.REASONS[Failure.ECONNREFUSED] is Reason.REFUSED
    assert module.REASONS[Failure.POLICY] is Reason.DENIED


@played
async def test_accepted_is_joined_and_its_end_is_told(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    await bench.open()
    app = accept(bench.flows, 7)
    await loop.sock_sendall(app, b"question")
    assert await loop.sock_recv(bench.far_end.far, 99) == b"question"
    await loop.sock_sendall(bench.far_end.far, b"answer")
    assert await loop.sock_recv(app, 99) == b"answer"
    assert bench.flows.counters.active == 1
    app.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(bench.far_end.far, 99) == b""
    bench.far_end.far.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(app, 99) == b""
    await heard(bench.said, 2)
    assert bench.said[1:] == [Closed((7,))]
    counters = bench.flows.counters
    assert (counters.active, counters.bytes_up, counters.bytes_down) == (0, 8, 6)
    app.close()


def test_there_is_room_for_as_many_as_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also for one that is asked for in the moment in which the one before is open."""
    room = 3
    files = module.RESERVED_FILES + room
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (files, files))

    class OpensAtOnce:
        async def open(self, host: str, port: int) -> Pump:
            return Pump()

    async def act() -> None:
        said: list[Message] = []

        def hear(message: Message) -> None:
            said.append(message)
            if isinstance(message, Opened):
                flows.on_open(Open(message.flow + 1, KEY, "h", 1))

        flows = Flows(OpensAtOnce(), hear)
        flows.on_open(Open(1, KEY, "h", 1))
        await heard(said, room + 1)
        assert said == [*map(Opened, range(1, room + 1)), Refused(room + 1, Reason.NET_UNREACHABLE)]

    asyncio.run(asyncio.wait_for(act(), 10))


@played
async def test_cancelled_before_it_is_open_is_asked_no_more(bench: Bench) -> None:
    await bench.begin()
    bench.flows.on_cancel(Cancel(7))
    bench.far_end.gate.set()
    await asyncio.sleep(0.01)
    assert bench.said == []


@played
async def test_accepted_that_nobody_knows_is_closed_and_told(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    bench.flows.on_accepted(99, theirs.detach())
    ours.settimeout(1)
    assert ours.recv(1) == b""
    await heard(bench.said)
    assert bench.said == [Closed((99,))]
    ours.close()


@played
async def test_next_gate_is_told_what_is_open_and_what_is_accepted(bench: Bench) -> None:
    await bench.open()
    bench.flows.on_started()
    assert bench.said[1:] == [Adopt((Known(7, KEY, False),))]
    app = accept(bench.flows, 7)
    bench.flows.on_started()
    assert bench.said[2:] == [Adopt((Known(7, KEY, True),))]
    bench.flows.abort()
    app.close()


@played
async def test_what_a_dead_gate_had_asked_for_is_not_answered(bench: Bench) -> None:
    await bench.begin()
    bench.flows.on_started()
    bench.far_end.gate.set()
    await asyncio.sleep(0.01)
    assert bench.said == []


@played
async def test_flow_is_shown_from_its_opening_to_its_end(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    key = bytes([198, 18, 0, 2, 192, 0, 2, 1, 0x9C, 0x40, 0, 80])

    def shown() -> FlowStatus:
        (one,) = bench.flows.list(lambda _: "server")
        return one

    bench.far_end.gate.clear()
    bench.flows.on_open(Open(7, key, "www.example.com", 80))
    assert astuple(shown()) == (
        *("t7", "tcp", "198.18.0.2", 40000, "www.example.com", 80),
        *("opening", 0, 0, 0, 0, "server"),
    )
    bench.far_end.gate.set()
    await heard(bench.said)
    assert shown().state == "opening"
    app = accept(bench.flows, 7)
    await loop.sock_sendall(app, b"question")
    assert await loop.sock_recv(bench.far_end.far, 99) == b"question"
    assert (shown().state, shown().bytes_up, shown().bytes_down) == ("open", 8, 0)
    app.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(bench.far_end.far, 99) == b""
    assert shown().state == "half-closed-local"
    bench.far_end.far.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(app, 99) == b""
    await heard(bench.said, 2)
    assert bench.flows.list(lambda _: "server") == []
    app.close()


def test_idle_is_the_time_since_the_last_data() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        for act in (lambda: near.send(b"sent"), lambda: far.send(b"received")):
            while (before := module.idle_ms(near)) < 50:
                time.sleep(0.001)
            act()
            while module.idle_ms(near) >= before:
                time.sleep(0.001)
    assert module.idle_ms(near) == 0


@played
async def test_killed_flow_is_reset_at_both_ends(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    await bench.open()
    app = accept(bench.flows, 7)
    assert not bench.flows.kill(8)
    assert bench.flows.kill(7)
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(app, 99)
    assert await loop.sock_recv(bench.far_end.far, 99) == b""
    await heard(bench.said, 2)
    assert bench.said[1:] == [Closed((7,))]
    assert not bench.flows.kill(7)
    app.close()


@played
async def test_killed_while_it_is_opening_is_refused(bench: Bench) -> None:
    await bench.begin()
    assert bench.flows.kill(7)
    bench.far_end.gate.set()
    await asyncio.sleep(0.01)
    assert bench.said == [Refused(7, Reason.REFUSED)]
    assert bench.flows.list(lambda _: "server") == []


def test_many_flows_are_told_oldest_first_in_messages_of_bounded_size() -> None:
    count = MAX_KNOWN + 1

    class Instant:
        async def open(self, host: str, port: int) -> Pump:
            return Pump()

    async def act() -> None:
        said: list[Message] = []
        flows = Flows(Instant(), said.append)
        for number in reversed(range(count)):
            flows.on_open(Open(number, KEY, "192.0.2.1", 80))
        await heard(said, count)
        flows.on_started()
        first, second = said[count:]
        assert isinstance(first, Adopt)
        assert isinstance(second, Adopt)
        assert [one.flow for one in (*first.flows, *second.flows)] == list(range(count))

    asyncio.run(act())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (bytes([198, 18, 0, 2, 192, 0, 2, 1, 0x9C, 0x40, 1, 187]), ("198.18.0.2", 40000)),
        (b"\xfd" + bytes(14) + b"\x02" + bytes(16) + bytes([0, 80, 0, 81]), ("fd00::2", 80)),
        (b"", ("", 0)),
        (bytes(13), ("", 0)),
    ],
)
def test_source_is_in_the_key(key: bytes, expected: tuple[str, int]) -> None:
    assert source_of(key) == expected
