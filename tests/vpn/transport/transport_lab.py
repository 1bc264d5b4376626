"""A recording protocol, pairs of connected streams, and a UDP relay that misbehaves on order."""

import asyncio
import functools
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Any

import uvloop
from fake_engine import FakeEngine

from vpn.transport.base import Address, Dialing, Listener, Listening, PlainSockets, Transport
from vpn.transport.memory import MemoryTransport
from vpn.transport.quic.transport import QuicTransport
from vpn.transport.tcp import TcpTransport

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "memory": lambda: MemoryTransport({}),
    "quic": QuicTransport,
    "quic over a fake engine": lambda: QuicTransport(FakeEngine()),
    "tcp": TcpTransport,
}
SEED = bytes(range(32))
TIMEOUT_S = 20.0


class Runner:
    """Runs coroutines, and fails if the loop saw an error that nobody took."""

    def __init__(self, loop: str) -> None:
        self._runner = asyncio.Runner(loop_factory=LOOPS[loop])
        self.errors: list[dict[str, Any]] = []

    def __enter__(self) -> "Runner":
        self._runner.__enter__()
        self._runner.get_loop().set_exception_handler(
            lambda _, context: self.errors.append(context)
        )
        return self

    def __exit__(self, *arguments: object) -> None:
        self._runner.__exit__(*arguments)
        assert self.errors == [], self.errors

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asyncio.wait_for(coroutine, TIMEOUT_S))


def played(dialogue: Callable[..., Any]) -> Callable[..., None]:
    """A dialogue as a test, on an event loop of asyncio's of its own."""

    @functools.wraps(dialogue)
    def test(**arguments: Any) -> None:
        with Runner("asyncio") as runner:
            runner.run(dialogue(**arguments))

    return test


def played_on_each_loop(dialogue: Callable[..., Any]) -> Callable[..., None]:
    """A dialogue as a test on each kind of event loop, which the fixture `run` gives."""

    @functools.wraps(dialogue)
    def test(run: Callable[[Any], None], **arguments: Any) -> None:
        run(dialogue(**arguments))

    parameters = signature(dialogue).parameters.values()
    run = Parameter("run", Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = Signature([run, *parameters])  # type: ignore[attr-defined]
    return test


async def until(is_true: Callable[[], bool]) -> None:
    """Wait for a condition that nobody announces."""
    while not is_true():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Recorder(asyncio.Protocol):
    """Remembers what it was told."""

    def __init__(self, *, keeps_open: bool = True) -> None:
        self.transport: asyncio.Transport
        self.keeps_open = keeps_open
        self.received = bytearray()
        self.datagrams: list[bytes] = []
        self.facts: list[str] = []
        self.error: Exception | None = None
        self.is_writing_paused = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert self.facts[0] == "made"
        assert not {"eof", "lost"} & set(self.facts)
        self.received += data
        self._changed.set()

    def take_datagram(self, data: bytes) -> None:
        assert "lost" not in self.facts
        self.datagrams.append(data)
        self._changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")

    def pause_writing(self) -> None:
        assert not self.is_writing_paused
        self.is_writing_paused = True
        self._note("pause")

    def resume_writing(self) -> None:
        assert self.is_writing_paused
        self.is_writing_paused = False
        self._note("resume")

    def _note(self, fact: str) -> None:
        assert "lost" not in self.facts
        self.facts.append(fact)
        self._changed.set()

    async def until(self, is_true: Callable[["Recorder"], bool]) -> None:
        while not is_true(self):
            self._changed.clear()
            await self._changed.wait()

    async def until_fact(self, fact: str) -> None:
        await self.until(lambda self: fact in self.facts)

    async def until_bytes(self, count: int) -> None:
        await self.until(lambda self: len(self.received) >= count)


@dataclass
class Pair:
    """Two connected ends."""

    client: Recorder
    server: Recorder
    listener: Listener

    @property
    def ends(self) -> tuple[Recorder, Recorder]:
        return self.client, self.server


def dialing(address: Address, **changes: Any) -> Dialing:
    arguments: dict[str, Any] = {
        "address": address,
        "sockets": PlainSockets(),
        "check_peer": lambda key: None,
        "timeout_s": 5.0,
    }
    return Dialing(**(arguments | changes))


@asynccontextmanager
async def listening(
    transport: Transport, host: str = "127.0.0.1", *, keeps_open: bool = True
) -> AsyncIterator[tuple[Listener, asyncio.Queue[Recorder]]]:
    """A listener and the queue of protocols it has made."""
    accepted: asyncio.Queue[Recorder] = asyncio.Queue()

    def factory() -> Recorder:
        recorder = Recorder(keeps_open=keeps_open)
        accepted.put_nowait(recorder)
        return recorder

    listener = await transport.listen(Listening(Address(host, 0), SEED), factory)
    try:
        yield listener, accepted
    finally:
        await listener.close()


@asynccontextmanager
async def pair_of(
    transport: Transport, *, keeps_open: bool = True, via: Address | None = None
) -> AsyncIterator[Pair]:
    """Two connected recorders; whatever is left open is aborted in the end."""
    async with listening(transport, keeps_open=keeps_open) as (listener, accepted):
        client = Recorder(keeps_open=keeps_open)
        stream = await transport.connect(dialing(via or listener.address), lambda: client)
        assert client.facts == ["made"]
        assert client.transport is stream
        server = await accepted.get()
        await server.until_fact("made")
        try:
            yield Pair(client, server, listener)
        finally:
            stream.abort()
            await client.until_fact("lost")


def free_port(kind: socket.SocketKind) -> int:
    """A port on which nothing listens."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Relay(asyncio.DatagramProtocol):
    """Forwards UDP between a client and a server, and does to datagrams what `harm` says.

    `harm` maps a datagram to those forwarded in its place, now or later.
    """

    def __init__(self, server: Address) -> None:
        self._server = (server.host, server.port)
        self._client: Any = None
        self.harm: Callable[[bytes, bool], list[bytes]] = lambda data, is_upward: [data]
        self.forwarded = 0

    async def open(self) -> Address:
        loop = asyncio.get_running_loop()
        self._down, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self._up = await self._new_up()
        host, port = self._down.get_extra_info("sockname")
        return Address(host, port)

    async def rebind(self) -> None:
        """Go on from another source port, as a NAT does that lost its state."""
        old, self._up = self._up, await self._new_up()
        old.close()

    async def _new_up(self) -> asyncio.DatagramTransport:
        relay = self

        class Up(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                relay.forward(data, is_upward=False)

        loop = asyncio.get_running_loop()
        up, _ = await loop.create_datagram_endpoint(Up, local_addr=("127.0.0.1", 0))
        return up

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._client = addr
        self.forward(data, is_upward=True)

    def forward(self, data: bytes, *, is_upward: bool) -> None:
        for each in self.harm(data, is_upward):
            self.forwarded += 1
            if is_upward:
                self._up.sendto(each, self._server)
            else:
                self._down.sendto(each, self._client)

    def close(self) -> None:
        self._up.close()
        self._down.close()


def blackhole(data: bytes, is_upward: bool) -> list[bytes]:
    return []


def seeded_harm(seed: int) -> Callable[[bytes, bool], list[bytes]]:
    """One datagram in twenty each: lost, doubled, corrupted, held back behind the next ones."""
    dice = random.Random(seed)
    held: dict[bool, list[bytes]] = {True: [], False: []}

    def harm(data: bytes, is_upward: bool) -> list[bytes]:
        fate = dice.randrange(20)
        if fate == 0:
            return []
        if fate == 1:
            return [data, data]
        if fate == 2:
            place = dice.randrange(len(data))
            return [data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]]
        if fate == 3:
            held[is_upward].append(data)
            return []
        late, held[is_upward] = held[is_upward], []
        return [data, *late]

    return harm


@asynccontextmanager
async def relayed_pair(
    transport: Transport, *, keeps_open: bool = True
) -> AsyncIterator[tuple[Pair, Relay]]:
    """Two recorders connected through a relay."""
    async with listening(transport, keeps_open=keeps_open) as (listener, accepted):
        relay = Relay(listener.address)
        address = await relay.open()
        client = Recorder(keeps_open=keeps_open)
        await transport.connect(dialing(address), lambda: client)
        server = await accepted.get()
        try:
            yield Pair(client, server, listener), relay
        finally:
            client.transport.abort()
            await client.until_fact("lost")
            relay.close()
