"""An instance that says the same of itself every time, and clients that speak to its server."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Self

from flow_sample import FLOW

from shim.protocol.common import Hello
from shim.protocol.link import Link, Message
from vpn.client.packet_tap import PacketTap
from vpn.control import peer, server
from vpn.control.events import Events
from vpn.control.instance import Explainer, Instance
from vpn.control.messages import (
    CLIENT,
    VERSION,
    DestinationStatus,
    DnsStatus,
    FlowStatus,
    Resolution,
    Run,
    StateChanged,
    Status,
    Subscribe,
)
from vpn.control.server import ControlServer
from vpn.errors import OverlayError

STATUS = Status(state="connected", target="alice@vpn.example.net:4422", pid=4711)
DNS = DnsStatus(
    mode="remote",
    asked="server",
    is_connected=True,
    is_captured=True,
    suffixes=tuple(f"{'x' * 60}.{number}.example" for number in range(2000)),
    hosts={},
    search=(),
    pool=None,
    cache_answers=0,
    cache_hits=0,
    resolved="absent",
    paused_s=0,
    warnings=(),
)
RUN = Run("quiet-otter", 4712, "embedded", ("sleep", "9"), 1_790_000_000.5)


class Knowing:
    """Explains everything in the same words."""

    async def dns_status(self) -> DnsStatus:
        return DNS

    def resolution(self, name: str, rtype: int) -> Resolution:
        if name != "www.example":
            raise ValueError
        return Resolution(way="far", age_s=rtype)

    async def destination(self, host: str, port: int) -> DestinationStatus:
        if host == "silent.example":
            await asyncio.Event().wait()
        if " " in host:
            raise ValueError
        return DestinationStatus(name=host, rule_number=port)


def drop(_: Message, fds: tuple[int, ...]) -> None:
    """Tell a gate something, where there is none."""
    for fd in fds:
        os.close(fd)


class Tunnel:
    """A tunnel of `count` flows, of which only `t1` can be killed."""

    def __init__(self, count: int = 40) -> None:
        self.captures = PacketTap(drop)
        self.explainer: Explainer | None = Knowing()
        self.count = count

    def list_flows(self) -> list[FlowStatus]:
        return [FLOW] * self.count

    def kill_flow(self, flow: str) -> bool:
        return flow == "t1"


class Up(Instance):
    """As `up` is."""

    def __init__(self, tunnel: Tunnel | None = None) -> None:
        self.events = Events()
        self.events.publish(StateChanged("connected"))
        self.paused: list[int] = []
        self.is_down = asyncio.Event()
        self.may_be_down = asyncio.Event()
        self.may_be_down.set()
        self._tunnel = tunnel

    @property
    def tunnel(self) -> Tunnel | None:
        return self._tunnel

    def status(self) -> Status:
        return STATUS

    async def take_down(self) -> None:
        await self.may_be_down.wait()
        self.is_down.set()

    async def pause(self, seconds: int) -> None:
        if seconds == 13:
            raise OverlayError("the monitor does not pause")
        self.paused.append(seconds)


class OfRun(Instance):
    """As a run is; all its namespaces are one file."""

    def __init__(self, fd: int = 0) -> None:
        self.events = Events()
        self._fd = fd

    @property
    def tunnel(self) -> Tunnel:
        return Tunnel()

    def describe_run(self) -> Run:
        return RUN

    def namespaces(self) -> tuple[int, int, int]:
        return (self._fd,) * 3


class Client:
    """The other end of a connection to a server."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(path)
        self.link = Link(self.sock, CLIENT)

    def send(self, *messages: Message) -> None:
        for message in messages:
            assert self.link.send(message)

    async def receive_all(self) -> tuple[Message, list[int]]:
        return await asyncio.wait_for(peer.receive(self.link), 10)

    async def receive(self) -> Message:
        message, fds = await self.receive_all()
        for fd in fds:
            os.close(fd)
        return message

    async def receive_until(self, is_last: Callable[[Message], bool]) -> None:
        while not is_last(await self.receive()):
            pass

    async def ask(self, request: Message) -> Message:
        """Greet, make a request, and return what comes first after the greeting."""
        self.send(Hello(VERSION), request)
        assert await self.receive() == Hello(VERSION)
        return await self.receive()


class Bench(AbstractAsyncContextManager):
    """A server of an instance, and clients that connect to it."""

    def __init__(self, instance: Callable[[], Instance]) -> None:
        self._make = instance
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="control"))
        self._path = f"{directory}/socket"
        listener = self._stack.enter_context(listener_at(self._path))
        self.instance = self._make()
        self.control = ControlServer(listener, self.instance)
        self._serving = asyncio.create_task(self.control.serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()
        self._serving.cancel()
        await self.control.finish()
        assert not self.control._tasks

    @property
    def up(self) -> Up:
        assert isinstance(self.instance, Up)
        return self.instance

    @property
    def tunnel(self) -> Tunnel:
        assert isinstance(self.instance.tunnel, Tunnel)
        return self.instance.tunnel

    def connect(self) -> Client:
        client = Client(self._path)
        self._stack.callback(client.link.close)
        return client

    async def subscriber(self) -> Client:
        client = self.connect()
        assert await client.ask(Subscribe()) == StateChanged("connected")
        return client

    async def ask(self, request: Message) -> Message:
        """Return what comes first, on a connection of its own."""
        return await self.connect().ask(request)


@contextmanager
def listener_at(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        yield listener


@contextmanager
def serving(path: str, instance: Callable[[], Instance]) -> Iterator[None]:
    """Serve an instance in a thread of its own."""
    ready, stop = threading.Event(), []

    async def act(listener: socket.socket) -> None:
        control = server.ControlServer(listener, instance())
        task, over = asyncio.create_task(control.serve()), asyncio.Event()
        stop.append(partial(asyncio.get_running_loop().call_soon_threadsafe, over.set))
        ready.set()
        await over.wait()
        task.cancel()
        await control.finish()

    with listener_at(path) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(act(listener)))
        thread.start()
        ready.wait(10)
        try:
            yield
        finally:
            stop[0]()
            thread.join()


@contextmanager
def saying(path: str, *packets: bytes) -> Iterator[None]:
    """Have whoever connects told these packets, whatever is asked; then hang up."""

    def act(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(10)
            for _ in range(2):
                sock.recv(4096)
            with suppress(BrokenPipeError):  # whoever has heard enough hangs up
                for packet in packets:
                    sock.send(packet)

    with listener_at(path) as listener:
        thread = threading.Thread(target=act, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            thread.join()
