"""The UDP service with real sockets on the loopback device: a client's messages in and out."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import pytest
import uvloop
from message_end import MessageEnd
from transport_lab import played

from vpn.protocol import icmp, udp
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.framing import frame
from vpn.protocol.udp import Deliver, Send, Undeliverable
from vpn.server.services import udp as module
from vpn.server.services.udp import Association, UdpService
from vpn.server.services.udp_socket import DatagramSocket
from vpn.ssh.login.grant import Grant
from vpn.ssh.login.login import Login

LOOPBACK: dict[int, str] = {4: "127.0.0.1", 6: "::1"}
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])

Said = list[Deliver | Undeliverable]
Run = Callable[[Awaitable[None]], None]


async def resolve(
    host: str, port: int, family: socket.AddressFamily
) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """Know one name; another one does not answer."""
    if host == "silent.example.com":
        await asyncio.sleep(60)
    if host != "www.example.com":
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return [(family, (LOOPBACK[4 if family == socket.AF_INET else 6], port))]


class Far:
    """A far end: an unconnected socket."""

    def __init__(self, family: int = 4) -> None:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self.sock = socket.socket(kind, socket.SOCK_DGRAM)
        self.sock.bind((LOOPBACK[family], 0))
        self.sock.setblocking(False)
        self.port: int = self.sock.getsockname()[1]

    async def receive(self) -> tuple[bytes, Any]:
        for _ in range(5000):
            with suppress(BlockingIOError):
                return self.sock.recvfrom(70000)
            await asyncio.sleep(0.001)
        raise TimeoutError("nothing comes")


class Bench:
    """A service, and one association of a client with a grant."""

    def __init__(self, family: Literal[4, 6] = 4, grant: Grant | None = None) -> None:
        self.service = UdpService(resolve)
        self.login = Login(grant or Grant())
        self.said: Said = []
        self.association = self.begin(family)

    def begin(self, family: Literal[4, 6] = 4) -> Association:
        return self.service.begin(
            self.login, family, lambda message: self.said.append(udp.decode_answer(message))
        )

    def send(self, host: str, port: int, payload: bytes = b"hi", hop_limit: int = 64) -> None:
        self.association.on_message(udp.encode(Send(host, port, hop_limit, True, payload)))

    async def hear(self) -> Deliver | Undeliverable:
        for _ in range(5000):
            if self.said:
                return self.said.pop(0)
            await asyncio.sleep(0.001)
        raise TimeoutError("nothing is said")


@LOOPS
@FAMILIES
def test_datagrams_go_both_ways_whole(run: Run, family: Literal[4, 6]) -> None:
    async def dialogue() -> None:
        bench, far = Bench(family), Far(family)
        for payload in (b"", b"x", bytes(1400), bytes(65507)):
            bench.send(LOOPBACK[family], far.port, payload)
            got, source = await far.receive()
            assert got == payload
            far.sock.sendto(got, source)
            assert await bench.hear() == Deliver(LOOPBACK[family], far.port, payload)
        bench.service.close()
        far.sock.close()

    run(dialogue())


@played
async def test_all_destinations_see_one_port_and_whoever_sends_to_it_is_heard() -> None:
    bench, one, other, stranger = Bench(), Far(), Far(), Far()
    bench.send(LOOPBACK[4], one.port)
    bench.send(LOOPBACK[4], other.port)
    (_, source), (_, same) = await one.receive(), await other.receive()
    assert source == same
    stranger.sock.sendto(b"unasked", source)
    assert await bench.hear() == Deliver(LOOPBACK[4], stranger.port, b"unasked")
    bench.service.close()
    for far in (one, other, stranger):
        far.sock.close()


@FAMILIES
@played
async def test_name_is_resolved_and_answers_as_the_name(family: Literal[4, 6]) -> None:
    bench, far = Bench(family), Far(family)
    for _ in range(2):
        bench.send("www.example.com", far.port)
        _, source = await far.receive()
        far.sock.sendto(b"back", source)
        assert await bench.hear() == Deliver("www.example.com", far.port, b"back")
    bench.service.close()
    far.sock.close()


@played
async def test_name_that_does_not_exist_is_an_unreachable_host() -> None:
    bench = Bench()
    for _ in range(2):
        bench.send("nobody.example.com", 7)
        assert await bench.hear() == Undeliverable("nobody.example.com", 7, 3, 1, 0, "")
    bench.service.close()


@played
async def test_datagrams_for_a_name_that_is_not_resolved_wait_and_are_bounded() -> None:
    bench, far, known = Bench(), Far(), asyncio.Event()

    async def resolve_later(host: str, port: int, family: socket.AddressFamily) -> Any:
        await known.wait()
        return await resolve(host, port, family)

    bench.service.resolve = resolve_later
    for number in range(module.MAX_WAITING + 5):
        bench.send("www.example.com", far.port, bytes([number]))
    known.set()
    waited = [(await far.receive())[0] for _ in range(module.MAX_WAITING)]
    assert waited == [bytes([number]) for number in range(module.MAX_WAITING)]
    bench.send("www.example.com", far.port, b"next")
    assert (await far.receive())[0] == b"next"
    bench.service.close()
    far.sock.close()


@played
async def test_association_ends_while_a_name_is_resolved() -> None:
    bench, tasks = Bench(), asyncio.all_tasks()
    bench.send("silent.example.com", 7)
    assert asyncio.all_tasks() != tasks
    bench.association.close()
    await asyncio.sleep(0)
    assert bench.said == []
    assert asyncio.all_tasks() == tasks
    bench.service.close()


@LOOPS
@FAMILIES
def test_closed_port_is_told_again_and_again_by_the_destination(
    run: Run, family: Literal[4, 6]
) -> None:
    async def dialogue() -> None:
        bench, far = Bench(family), Far(family)
        closed = far.port
        far.sock.close()
        kind, code = icmp.PORT_UNREACHABLE[family]
        for host in (LOOPBACK[family], "www.example.com", LOOPBACK[family]):
            bench.send(host, closed)
            assert await bench.hear() == Undeliverable(host, closed, kind, code, 0, host)
        bench.service.close()

    run(dialogue())


@played
async def test_error_about_one_destination_does_not_keep_another_from_being_sent_to() -> None:
    bench, far, gone = Bench(), Far(), Far()
    gone.sock.close()
    for _ in range(3):
        bench.send(LOOPBACK[4], gone.port)
        bench.send(LOOPBACK[4], far.port)
        await far.receive()
    bench.service.close()
    far.sock.close()


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("udp4.overlay-vpn.internal", 1),
        ("x.overlay-vpn.internal.", 53),
        ("224.0.0.1", 53),
        ("fe80::1%eth0", 53),
    ],
)
@played
async def test_what_must_not_be_sent_to_is_a_closed_port(host: str, port: int) -> None:
    family: Literal[4, 6] = 6 if ":" in host else 4
    bench = Bench(family)
    bench.send(host, port)
    assert bench.said == [Undeliverable(host, port, *icmp.PORT_UNREACHABLE[family], 0, "")]
    bench.service.close()


@played
async def test_error_of_send_is_said_unless_the_datagram_is_merely_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    errors = [errno.ENOBUFS, errno.EMSGSIZE, errno.ENETUNREACH]

    def refuse(*_: object, may_fragment: bool) -> None:
        raise OSError(errors.pop(0), "refused")

    monkeypatch.setattr(DatagramSocket, "send", refuse)
    for port in (1, 2, 3):
        bench.send(LOOPBACK[4], port)
    assert bench.said == [Undeliverable(LOOPBACK[4], 3, 3, 0, 0, "")]
    bench.service.close()


@played
async def test_address_of_the_other_family_is_an_unreachable_network() -> None:
    bench = Bench(4)
    bench.send("::1", 53)
    assert bench.said == [Undeliverable("::1", 53, 3, 0, 0, "")]
    bench.service.close()


@played
async def test_login_sends_where_it_may_connect_and_nowhere_else() -> None:
    granted, other = Far(), Far()
    grant = Grant(permit_open=frozenset({("127.0.0.1", granted.port)}))
    bench = Bench(4, grant)
    bench.send(LOOPBACK[4], other.port)
    bench.send("www.example.com", granted.port)
    refused = [("127.0.0.1", other.port), ("www.example.com", granted.port)]
    assert bench.said == [Undeliverable(*one, 3, 3, 0, "") for one in refused]
    bench.send(LOOPBACK[4], granted.port, b"granted")
    assert (await granted.receive())[0] == b"granted"
    with pytest.raises(BlockingIOError):
        other.sock.recv(10)
    bench.service.close()
    granted.sock.close()
    other.sock.close()


@played
async def test_associations_of_a_login_are_bounded_and_one_that_ends_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ASSOCIATIONS", 2)

    bench = Bench()
    bench.begin()
    with pytest.raises(OpenFailed) as refused:
        bench.begin()
    assert refused.value.failure is Failure.UNAVAILABLE
    bench.association.close()
    bench.association.close()
    bench.begin()
    bench.service.close()


@played
async def test_association_that_is_idle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    monkeypatch.setattr(module, "TICK_S", 0.01)

    bench = Bench()
    for _ in range(5000):
        if not bench.login.held["udp"]:
            break
        await asyncio.sleep(0.001)
    assert bench.login.held["udp"] == 0
    bench.send(LOOPBACK[4], 9)  # is nobody's any more
    bench.service.close()


@played
async def test_client_that_does_not_take_its_datagrams_leaves_them_in_the_socket() -> None:
    bench, far = Bench(), Far()
    bench.send(LOOPBACK[4], far.port)
    _, source = await far.receive()
    bench.association.pause()
    far.sock.sendto(b"later", source)
    await asyncio.sleep(0.05)
    assert bench.said == []
    bench.association.resume()
    assert await bench.hear() == Deliver(LOOPBACK[4], far.port, b"later")
    bench.service.close()
    far.sock.close()


def opened_channel() -> tuple[UdpService, Login, asyncio.Protocol, MessageEnd]:
    """The channel of an association, and its end at the client."""
    service, login = UdpService(resolve), Login(Grant())
    transport = MessageEnd(udp.MAX_MESSAGE, udp.decode_answer)
    protocol = service.protocol(4, login)
    protocol.connection_made(transport)
    return service, login, protocol, transport


@played
async def test_channel_carries_one_association_and_ends_it() -> None:
    service, login, protocol, transport = opened_channel()
    for octet in frame(udp.encode(Send("224.0.0.1", 7, 64, True, b""))):
        protocol.data_received(bytes([octet]))
    assert transport.sent == [Undeliverable("224.0.0.1", 7, 3, 3, 0, "")]
    assert login.held["udp"] == 1
    protocol.connection_lost(None)
    assert login.held["udp"] == 0
    service.close()


@played
async def test_client_that_does_not_take_what_is_said_loses_it() -> None:
    service, _, protocol, transport = opened_channel()
    undeliverable = frame(udp.encode(Send("224.0.0.1", 7, 64, True, b"")))
    protocol.pause_writing()
    protocol.data_received(undeliverable)
    assert transport.sent == []
    protocol.resume_writing()
    protocol.data_received(undeliverable)
    assert len(transport.sent) == 1
    protocol.connection_lost(None)
    service.close()


@played
async def test_client_that_says_nonsense_loses_the_channel() -> None:
    service, login, protocol, transport = opened_channel()
    protocol.data_received(frame(b"nonsense"))
    assert transport.is_aborted
    assert login.held["udp"] == 0
    service.close()
