"""What a client answers about flows and packets, and what is made of answers that are none."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import pytest

from shim.protocol.gate import GATE, Copy
from shim.protocol.handover import adopt
from shim.protocol.link import Link, LinkClosedError, Message
from shim.protocol.tap import TAP
from vpn.client import asking, inspection, listing, questions
from vpn.client.explain import Explainer
from vpn.client.packet_tap import Captures
from vpn.control.messages import DestinationStatus, DnsStatus, FlowStatus, Resolution
from vpn.errors import NotPermittedError, OverlayError

FLOW = FlowStatus(
    id="t1",
    protocol="tcp",
    source="198.18.0.2",
    source_port=1,
    destination="www.example.com",
    destination_port=2,
    state="open",
    bytes_up=0,
    bytes_down=0,
    age_s=0,
    idle_s=0,
    exit="server",
)


class Knowing:
    """Explains everything in the same words."""

    async def dns(self) -> DnsStatus:
        return STATUS

    def way(self, name: str, rtype: int) -> Resolution:
        if name != "www.example":
            raise ValueError
        return Resolution(way="far", age_s=rtype)

    async def fate(self, host: str, port: int) -> DestinationStatus:
        return DestinationStatus(name=host, rule_number=port)


STATUS = DnsStatus(
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


class Client:
    """Something to inspect, and the gate that it speaks to."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.captures = Captures(self.send)
        self.explainer = cast(Explainer, Knowing())

    def send(self, message: Message, fds: tuple[int, ...]) -> None:
        assert message == Copy()
        self.sent += fds

    def list_flows(self) -> list[FlowStatus]:
        return [FLOW] * 40

    def kill_flow(self, flow: str) -> bool:
        return flow == "t1"


Dialogue = Callable[[Client, Callable[[bytes], Awaitable[socket.socket]]], Awaitable[None]]


def play(dialogue: Dialogue) -> None:
    """Ask on connections whose other end answers."""

    async def act() -> None:
        client = Client()
        tasks: list[asyncio.Task[None]] = []
        ends: list[socket.socket] = []

        async def answer(sock: socket.socket, question: bytes) -> None:
            with sock:
                await inspection.answer(sock, question, client)

        async def ask(question: bytes) -> socket.socket:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (ours, theirs):
                end.setblocking(False)
            tasks.append(asyncio.create_task(answer(theirs, question)))
            ends.append(ours)
            return ours

        await asyncio.wait_for(dialogue(client, ask), 10)
        for end in ends:
            end.close()
        await asyncio.wait(tasks, timeout=10)
        assert all(task.done() for task in tasks)
        for fd in client.sent:
            adopt(fd, GATE).close()

    asyncio.run(act())


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


def test_list_comes_in_packets_with_an_end() -> None:
    async def dialogue(client: Client, ask: Callable[[bytes], Awaitable[socket.socket]]) -> None:
        sock = await ask(questions.FLOWS)
        flows: list[FlowStatus] = []
        while (packet := await receive(sock)) != listing.END:
            flows += listing.unpack(packet)
        assert flows == client.list_flows()

    play(dialogue)


def test_flow_that_is_there_is_killed_and_another_is_not() -> None:
    async def dialogue(client: Client, ask: Callable[[bytes], Awaitable[socket.socket]]) -> None:
        assert await receive(await ask(b"kill t1")) == questions.DONE
        for other in (b"kill t2", b"kill ", b"kill \xff"):
            assert await receive(await ask(other)) == questions.NO_FLOW

    play(dialogue)


def test_capture_lasts_as_long_as_the_connection() -> None:
    async def dialogue(client: Client, ask: Callable[[bytes], Awaitable[socket.socket]]) -> None:
        first = await ask(questions.CAPTURE)
        reader = await reader_of(first)
        assert await receive(await ask(questions.CAPTURE)) == questions.BUSY
        client.captures.on_started()
        assert len(client.sent) == 2
        first.close()
        await client.captures.wait()
        adopt(client.sent.pop(), TAP).close()
        adopt(client.sent.pop(), TAP).close()
        with pytest.raises(LinkClosedError):
            reader.receive()
        reader.close()
        again = await reader_of(await ask(questions.CAPTURE))
        client.captures.end()
        again.close()

    play(dialogue)


async def reader_of(sock: socket.socket) -> Link:
    for _ in range(5000):
        try:
            answer, fds, _, _ = socket.recv_fds(sock, 64, 1)
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        assert answer == questions.DONE
        return adopt(fds[0], TAP)
    raise AssertionError("no answer")


def test_nothing_is_captured_before_there_is_a_gate() -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            theirs.setblocking(False)
            await inspection.answer(theirs, questions.CAPTURE, None)
            assert ours.recv(64) == questions.NOT_UP
            await inspection.answer(theirs, questions.FLOWS, None)
            assert ours.recv(64) == listing.END
            await inspection.answer(theirs, b"dns", None)
            assert ours.recv(64) == questions.NOT_UP

    asyncio.run(act())


def answered(monkeypatch: pytest.MonkeyPatch, ask: Callable[[None], object]) -> object:
    """Ask as the command line does; a client answers in a thread of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    theirs.setblocking(False)

    async def answer() -> None:
        question = await asyncio.get_running_loop().sock_recv(theirs, 2048)
        await inspection.answer(theirs, question, Client())
        theirs.close()

    monkeypatch.setattr(asking.control, "connect", lambda _: ours)
    thread = threading.Thread(target=lambda: asyncio.run(answer()))
    thread.start()
    try:
        return ask(None)
    finally:
        thread.join()
        theirs.close()


def test_document_of_any_size_is_the_one_that_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(monkeypatch, asking.dns_status) == STATUS


def test_question_comes_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    way = answered(monkeypatch, lambda run: asking.way_of(run, "www.example", 257))
    assert way == Resolution(way="far", age_s=257)
    fate = answered(monkeypatch, lambda run: asking.fate_of(run, "2001:db8::1", 443))
    assert fate == DestinationStatus(name="2001:db8::1", rule_number=443)


@pytest.mark.parametrize("name", ["other", "a b", "", "\u00e9"])
def test_question_that_is_none_has_no_document(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(OverlayError, match="does not answer as it should"):
        answered(monkeypatch, lambda run: asking.way_of(run, name, 1))


# Root may ask a client that is hostile.


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ([b"not permitted"], NotPermittedError, "another user"),
        ([b""], OverlayError, "does not answer as it should"),
        ([b"nonsense"], OverlayError, "does not answer as it should"),
        ([b"[]", b"[{}]"], OverlayError, "does not answer as it should"),
        ([b"done"], OverlayError, "does not answer as it should"),
    ],
)
def test_answer_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, answers: list[bytes], error: type[OverlayError], says: str
) -> None:
    for ask in (asking.list_flows, asking.capture, asking.dns_status):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for answer in answers:
            theirs.send(answer)
        theirs.shutdown(socket.SHUT_WR)
        monkeypatch.setattr(asking.control, "connect", lambda _, sock=ours: sock)
        with pytest.raises(error, match=says):
            ask(None)
        ours.close()
        theirs.close()


def test_list_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_FLOWS", 2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(next(iter(listing.packets([FLOW] * 3))))
    monkeypatch.setattr(asking.control, "connect", lambda _: ours)
    with pytest.raises(OverlayError, match="does not answer as it should"):
        asking.list_flows(None)
    theirs.close()


def test_address_that_is_none_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(msgspec.json.encode(DestinationStatus(addresses=("192.0.2.1", "; rm"))))
    theirs.send(listing.END)
    monkeypatch.setattr(asking.control, "connect", lambda _: ours)
    with pytest.raises(OverlayError, match="does not answer as it should"):
        asking.fate_of(None, "a.b", 80)
    theirs.close()


def test_document_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_BYTES", 100)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b"[" * 101)
    monkeypatch.setattr(asking.control, "connect", lambda _: ours)
    with pytest.raises(OverlayError, match="does not answer as it should"):
        asking.dns_status(None)
    theirs.close()
