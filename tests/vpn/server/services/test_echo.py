"""The echo service over a channel; the kernel's ping socket is played by the test.

What a real one does is in netns-tests/test_echo.py: most machines allow it to nobody.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from dialogues import dialogue
from ssh_lab import Keys, session_of
from transport_lab import Recorder, played_on_each_loop

from vpn.protocol import echo
from vpn.protocol.echo import Failed, Reply, Request
from vpn.protocol.failure import OpenFailed
from vpn.protocol.framing import Frames, frame
from vpn.protocol.services import ECHO
from vpn.server.services import echo as module
from vpn.server.services.echo import EchoService
from vpn.server.services.ping_socket import Answer, Error
from vpn.ssh.login.grant import EVERYTHING, Grant
from vpn.ssh.login.login import Login
from vpn.transport.memory import memory_pair


class Kernel:
    """A ping socket whose network is the test. Readable while there is something to read."""

    def __init__(self) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.sent: list[tuple[Any, ...]] = []
        self.answers: list[Answer] = []
        self.refusal: OSError | None = None
        self.is_closed = False

    def fileno(self) -> int:
        return self.event

    def send(
        self, address: str, hop_limit: int, sequence: int, payload: bytes, *, may_fragment: bool
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.sent.append((address, hop_limit, sequence, payload, may_fragment))

    def answer(self, *answers: Answer) -> None:
        self.answers += answers
        os.eventfd_write(self.event, 1)

    def receive(self) -> Answer | None:
        if self.answers:
            return self.answers.pop(0)
        os.eventfd_read(self.event)
        return None

    def receive_error(self) -> Error | None:
        return None

    def close(self) -> None:
        self.is_closed = True
        os.close(self.event)


class Bench:
    """A channel to the service: requests go in, and what comes out is looked at."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []
        self.resolved: list[tuple[str, Any]] = []
        self.service = EchoService(self._resolve)
        self.service.new_socket = self._new_socket  # type: ignore[method-assign, assignment]
        self.login = Login(EVERYTHING)
        self.client, self.answers = self.channel()

    async def log_in(self, grant: Grant) -> None:
        """Have a channel of a login with this grant, in place of the one there is."""
        self.client.transport.abort()
        self.login = Login(grant)
        self.client, self.answers = self.channel()
        await self.client.until_fact("made")

    def channel(self) -> tuple[Recorder, Frames]:
        client = Recorder()
        memory_pair(self.service.protocol(self.login), client)
        return client, Frames(echo.MAX_MESSAGE)

    def _new_socket(self, family: int) -> Kernel:
        self.kernels.append(Kernel())
        return self.kernels[-1]

    async def _resolve(self, host: str, port: int, family: Any) -> Any:
        self.resolved.append((host, family))
        await asyncio.sleep(0)
        if host == "none.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        if host == "group.example":
            return [(family, ("224.0.0.1", port))]
        return [(family, ("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", port))]

    def send(self, *requests: Request) -> None:
        self.client.transport.write(b"".join(frame(echo.encode(one)) for one in requests))

    async def hears(self, count: int) -> list[Reply | Failed]:
        heard: list[Reply | Failed] = []

        def is_enough(client: Recorder) -> bool:
            heard.extend(map(echo.decode_answer, self.answers.feed(bytes(client.received))))
            client.received.clear()
            return len(heard) >= count

        await self.client.until(is_enough)
        return heard

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        self.client.transport.abort()
        await self.settle()
        self.service.close()


def opening(host: str, port: int | None) -> Grant:
    """A grant of a host, on one port or on all of them."""
    return Grant(permit_open=frozenset({(host, port)}))


def request(query: int = 1, host: str = "192.0.2.1", sequence: int = 7, **fields: Any) -> Request:
    given = {"family": 4, "hop_limit": 9, "may_fragment": True, "payload": b"payload"} | fields
    return Request(query=query, host=host, sequence=sequence, **given)


@asynccontextmanager
async def channel() -> AsyncIterator[Bench]:
    """A channel to the service, which is ended afterwards."""
    async with aclosing(Bench()) as bench:
        await bench.client.until_fact("made")
        yield bench
    assert all(kernel.is_closed for kernel in bench.kernels)
    assert bench.login.held["echo"] == 0


@dialogue(channel, run="run")
async def test_request_is_sent_as_it_is(bench: Bench) -> None:
    bench.send(request(hop_limit=3, may_fragment=False))
    await bench.settle()
    assert bench.kernels[0].sent == [("192.0.2.1", 3, 7, b"payload", False)]


@dialogue(channel, run="run")
async def test_replies_come_doubled_and_out_of_order_as_they_are(bench: Bench) -> None:
    bench.send(request())
    await bench.settle()
    replies = [Answer("192.0.2.1", number, 60, b"payload") for number in (9, 7, 7, 8)]
    bench.kernels[0].answer(*replies)
    assert await bench.hears(4) == [
        Reply(1, number, 60, "192.0.2.1", b"payload") for number in (9, 7, 7, 8)
    ]


@dialogue(channel, run="run")
async def test_nothing_comes_where_nothing_answers(bench: Bench) -> None:
    bench.send(request())
    await bench.settle()
    assert not bench.client.received


@dialogue(channel, run="run")
async def test_name_is_resolved_once_and_answers_under_its_name(bench: Bench) -> None:
    bench.send(*(request(host="a.example", family=6, sequence=number) for number in range(3)))
    await bench.settle()
    bench.send(request(host="a.example", family=6, sequence=3))
    await bench.settle()
    assert bench.resolved == [("a.example", socket.AF_INET6)]
    assert [each[::2] for each in bench.kernels[0].sent] == [
        ("2001:db8::1", number, True) for number in range(4)
    ]
    bench.kernels[0].answer(Answer("2001:db8::1", 0, 60, b""), Answer("2001:db8::9", 1, 60, b""))
    assert [each.source for each in await bench.hears(2)] == ["a.example", "2001:db8::9"]


@dialogue(channel, run="run")
async def test_name_that_does_not_exist_is_a_host_that_cannot_be_reached(bench: Bench) -> None:
    bench.send(request(host="none.example"), request(2, "none.example", family=6))
    assert await bench.hears(2) == [Failed(1, 7, 3, 1, 0, ""), Failed(2, 7, 1, 3, 0, "")]


@dialogue(channel, run="run")
async def test_error_of_send_is_said_by_the_server_itself(bench: Bench) -> None:
    bench.send(request())
    await bench.settle()
    bench.kernels[0].refusal = OSError(101, "Network is unreachable")
    bench.send(request(sequence=8))
    assert await bench.hears(1) == [Failed(1, 8, 3, 0, 0, "")]
    bench.kernels[0].refusal = OSError(105, "No buffer space available")
    bench.send(request(sequence=9))
    await bench.settle()
    assert not bench.client.received  # lost like any other


@dialogue(channel, run="run")
async def test_kernel_that_forbids_is_prohibited_and_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(family: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "PingSocket", refuse)
    del bench.service.new_socket  # the real one, on a kernel that refuses
    bench.send(request(), request(2, "2001:db8::1", family=6))
    assert await bench.hears(2) == [Failed(1, 7, 3, 13, 0, ""), Failed(2, 7, 1, 1, 0, "")]
    assert [line.getMessage() for line in caplog.records] == [
        "ICMP echo is not available: net.ipv4.ping_group_range does not include the group of "
        "this process; see icmp(7)"
    ]


async def is_prohibited(bench: Bench, host: str) -> bool:
    """Whether a ping is refused, and nothing at all is done for it."""
    bench.send(request(host=host))
    heard = await bench.hears(1)
    return heard == [Failed(1, 7, 3, 13, 0, "")] and not bench.kernels and not bench.resolved


@pytest.mark.parametrize(
    ("host", "opened"),
    [("192.0.2.1", "192.0.2.1"), ("192.0.2.1", "*"), ("db.example", "db.example")],
)
@dialogue(channel, run="run")
async def test_host_of_which_any_port_may_be_opened_may_be_pinged(
    bench: Bench, host: str, opened: str
) -> None:
    await bench.log_in(opening(opened, None))
    bench.send(request(host=host))
    await bench.settle()
    assert len(bench.kernels[0].sent) == 1


@pytest.mark.parametrize(
    ("host", "grant"),
    [
        ("192.0.2.1", opening("192.0.2.1", 443)),
        ("192.0.2.1", opening("*", 443)),
        ("192.0.2.1", opening("192.0.2.2", None)),
        ("db.example", opening("192.0.2.1", None)),
    ],
)
@dialogue(channel, run="run")
async def test_host_of_which_some_ports_may_be_opened_is_prohibited(
    bench: Bench, host: str, grant: Grant
) -> None:
    await bench.log_in(grant)
    assert await is_prohibited(bench, host)


@pytest.mark.parametrize("host", ["resolver.overlay-vpn.internal", "224.0.0.1"])
@dialogue(channel, run="run")
async def test_what_nobody_may_ping_is_prohibited(bench: Bench, host: str) -> None:
    assert await is_prohibited(bench, host)


@dialogue(channel, run="run")
async def test_name_of_a_multicast_group_is_prohibited(bench: Bench) -> None:
    bench.send(request(host="group.example"))
    assert await bench.hears(1) == [Failed(1, 7, 3, 13, 0, "")]
    assert not bench.kernels


@dialogue(channel, run="run")
async def test_too_many_queries_push_out_the_idlest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 2)
    bench.send(request(1), request(2))
    await bench.settle()
    bench.send(request(1), request(3))
    await bench.settle()
    assert [kernel.is_closed for kernel in bench.kernels] == [False, True, False]


@dialogue(channel, run="run")
async def test_query_that_is_answered_is_not_the_idlest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 2)
    bench.send(request(1), request(2))
    await bench.settle()
    bench.kernels[0].answer(Answer("192.0.2.1", 7, 60, b""))
    await bench.hears(1)
    bench.send(request(3))
    await bench.settle()
    assert [kernel.is_closed for kernel in bench.kernels] == [False, True, False]


@dialogue(channel, run="run")
async def test_channels_of_a_login_share_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 1)
    bench.send(request(1))
    await bench.settle()
    other, _ = bench.channel()
    await other.until_fact("made")
    other.transport.write(frame(echo.encode(request(1))))
    await bench.settle()
    assert [kernel.is_closed for kernel in bench.kernels] == [False]
    other.transport.abort()


@pytest.fixture
def idle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.01)
    monkeypatch.setattr(module, "IDLE_S", 0.0)


@pytest.mark.usefixtures("idle_at_once")
@dialogue(channel, run="run")
async def test_idle_query_is_forgotten(bench: Bench) -> None:
    bench.send(request(1))
    await bench.settle()
    await asyncio.sleep(0.1)
    assert bench.kernels[0].is_closed


@dialogue(channel, run="run")
async def test_requests_that_wait_for_a_name_are_bounded(bench: Bench) -> None:
    bench.send(*(request(host="a.example", sequence=number) for number in range(100)))
    await bench.settle()
    assert len(bench.kernels[0].sent) == module.MAX_WAITING


@dialogue(channel, run="run")
async def test_client_that_does_not_read_loses_replies(bench: Bench) -> None:
    bench.client.transport.pause_reading()
    bench.send(request())
    await bench.settle()
    for _ in range(200):
        bench.kernels[0].answer(Answer("192.0.2.1", 7, 60, bytes(60000)))
        await asyncio.sleep(0)
    await bench.settle()
    bench.client.transport.resume_reading()
    await bench.settle()
    assert 0 < len(bench.client.received) < 100 * 60000


@dialogue(channel, run="run")
async def test_what_is_no_message_ends_the_channel(bench: Bench) -> None:
    bench.client.transport.write(b"\xff\xff\xff\xff")
    await bench.client.until_fact("lost")


@played_on_each_loop
async def test_login_that_may_open_one_port_has_the_service_and_is_prohibited_there(
    keys: Keys,
) -> None:
    keys.authorize('permitopen="192.0.2.1:443"')
    async with session_of(keys) as session:
        reader, writer = await session.open_stream(*ECHO)
        writer.write(frame(echo.encode(request())))
        said = Frames(echo.MAX_MESSAGE)
        heard: list[Reply | Failed] = []
        while not heard:
            heard = list(map(echo.decode_answer, said.feed(await reader.read(4096))))
        assert heard == [Failed(1, 7, 3, 13, 0, "")]
        writer.close()
        await writer.wait_closed()


@played_on_each_loop
async def test_login_without_forwarding_has_no_service(keys: Keys) -> None:
    keys.authorize("no-port-forwarding")
    async with session_of(keys) as session:
        with pytest.raises(OpenFailed):
            await session.open_stream(*ECHO)
