"""Associations of the client: what the gate says, what the server says, and what comes of it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from dialogues import dialogue
from message_end import MessageEnd

from shim.protocol.datagrams import Deliver, Forget, Send, Undeliverable
from shim.protocol.link import Message
from vpn.client.flows import udp as module
from vpn.client.flows.admission import Admission, Destination, FarEnd, Limits, admit
from vpn.client.flows.udp import Associations
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.protocol import udp
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.framing import frame
from vpn.protocol.services import UDP, UDP_IN_DATAGRAMS

HERE = "203.0.113.7"
NAME = "www.example.com"
DENIED = parse_rule(Action.DENY, "denied.example")


class Channel(MessageEnd):
    """The server's end of a channel."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__(udp.MAX_MESSAGE, udp.decode_request)
        self.protocol = protocol

    def say(self, message: udp.Deliver | udp.Undeliverable) -> None:
        for octet in frame(udp.encode(message)):
            self.protocol.data_received(bytes([octet]))


class Far:
    """The way out. Denies `denied.example`; `hosts` are elsewhere; opens when `may_open`."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.hosts: dict[str, tuple[str, int]] = {}
        self.channels: list[Channel] = []
        self.services: list[tuple[str, int]] = []
        self.has_datagrams = False
        self.admitted: list[tuple[str, int]] = []
        self.results: list[tuple[str, int, Failure | None]] = []
        self.moved: list[tuple[str, int, int, int]] = []

    def admit(self, destination: Destination) -> Admission:
        assert destination.protocol == "udp"
        self.admitted.append((destination.host, destination.port))
        limits = Limits(Policy([DENIED]), self.hosts)
        return admit(limits, FarEnd(True, True), destination, 0.0)

    def on_result(self, destination: Destination, failure: Failure | None) -> None:
        self.results.append((destination.host, destination.port, failure))

    def on_bytes(self, destination: Destination, up: int, down: int) -> None:
        self.moved.append((destination.host, destination.port, up, down))

    async def open_service(self, service: tuple[str, int], protocol: asyncio.Protocol) -> None:
        self.services.append(service)
        await self.may_open.wait()
        if self.failure is not None:
            raise OpenFailed(self.failure)
        channel = Channel(protocol)
        self.channels.append(channel)
        protocol.connection_made(channel)


class Bench(AbstractAsyncContextManager):
    """A client with a gate and a far end."""

    def __init__(self) -> None:
        self.far = Far()
        self.told: list[Message] = []
        self.associations = Associations(self.far, self.told.append)

    async def __aexit__(self, *_: object) -> None:
        self.associations.close()

    async def send(self, number: int = 1, host: str = HERE, port: int = 7, **more: Any) -> None:
        fields = {"family": 4, "hop_limit": 63, "may_fragment": True, "payload": b"hi"} | more
        self.associations.on_send(Send(number, host=host, port=port, **fields))
        for _ in range(5):
            await asyncio.sleep(0)


played = dialogue(Bench)


@played
async def test_datagrams_of_a_socket_go_over_one_channel_in_order(bench: Bench) -> None:
    await bench.send(payload=b"one")
    await bench.send(host=NAME, port=8, payload=b"two", hop_limit=1, may_fragment=False)
    (channel,) = bench.far.channels
    assert channel.sent == [
        udp.Send(HERE, 7, 63, True, b"one"),
        udp.Send(NAME, 8, 1, False, b"two"),
    ]
    assert bench.far.services == [UDP[4]]
    assert bench.far.results == [(HERE, 7, None), (NAME, 8, None)]


@played
async def test_sockets_have_channels_of_their_own_by_family(bench: Bench) -> None:
    await bench.send(1)
    await bench.send(2, family=6, host="2001:db8::7")
    assert bench.far.services == [UDP[4], UDP[6]]


@played
async def test_datagrams_wait_while_the_channel_opens_and_are_bounded(bench: Bench) -> None:
    bench.far.may_open.clear()
    for _ in range(3):
        await bench.send(payload=bytes(60_000))
    assert bench.associations.is_opening
    bench.far.may_open.set()
    await bench.send(payload=b"last")
    assert [len(one.payload) for one in bench.far.channels[0].sent] == [60_000, 60_000, 4]
    assert not bench.associations.is_opening


@played
async def test_datagrams_that_the_session_does_not_take_are_lost(bench: Bench) -> None:
    await bench.send()
    (channel,) = bench.far.channels
    channel.protocol.pause_writing()
    await bench.send()
    channel.protocol.resume_writing()
    await bench.send(payload=b"later")
    assert [one.payload for one in channel.sent] == [b"hi", b"later"]


@played
async def test_denied_destination_is_a_closed_port_and_nothing_leaves(bench: Bench) -> None:
    for _ in range(2):
        await bench.send(host="denied.example")
    assert bench.told == [Undeliverable(1, "denied.example", 7, 3, 3, 0, "")] * 2
    assert bench.far.channels[0].sent == []
    assert bench.far.admitted == [("denied.example", 7)]


@pytest.mark.parametrize(
    ("failure", "family", "said"),
    [
        (Failure.POLICY, 4, (3, 3)),
        (Failure.POLICY, 6, (1, 4)),
        (Failure.UNSUPPORTED, 4, (3, 3)),
        (Failure.UNSUPPORTED, 6, (1, 4)),
        (Failure.UNAVAILABLE, 4, (3, 0)),
        (Failure.UNAVAILABLE, 6, (1, 0)),
    ],
)
@played
async def test_service_that_is_not_there_is_told_at_once_and_asked_for_again(
    bench: Bench, failure: Failure, family: int, said: tuple[int, int]
) -> None:
    bench.far.failure = failure
    for _ in range(2):
        await bench.send(family=family)
    assert bench.told == [Undeliverable(1, HERE, 7, *said, 0, "")] * 2
    assert bench.far.results == [(HERE, 7, failure)] * 2
    assert len(bench.associations) == 0
    bench.far.failure = None
    await bench.send(family=family)
    assert len(bench.far.channels) == 1


@played
async def test_answers_and_errors_are_passed_on(bench: Bench) -> None:
    await bench.send(host=NAME)
    (channel,) = bench.far.channels
    channel.say(udp.Deliver(NAME, 40000, b"back"))
    channel.say(udp.Undeliverable(NAME, 7, 11, 0, 0, "192.0.2.1"))
    channel.say(udp.Undeliverable(NAME, 7, 3, 4, 1280, ""))
    channel.say(udp.Deliver("192.0.2.99", 1, b"unasked"))
    assert bench.told == [
        Deliver(1, NAME, 40000, b"back"),
        Undeliverable(1, NAME, 7, 11, 0, 0, "192.0.2.1"),
        Undeliverable(1, NAME, 7, 3, 4, 1280, ""),
        Deliver(1, "192.0.2.99", 1, b"unasked"),
    ]


@played
async def test_host_that_is_elsewhere_answers_under_its_name(bench: Bench) -> None:
    bench.far.hosts[NAME] = (HERE, 7007)
    await bench.send(host=NAME)
    (channel,) = bench.far.channels
    assert channel.sent == [udp.Send(HERE, 7007, 63, True, b"hi")]
    channel.say(udp.Deliver(HERE, 7007, b"back"))
    channel.say(udp.Undeliverable(HERE, 7007, 3, 3, 0, HERE))
    assert bench.told == [
        Deliver(1, NAME, 7, b"back"),
        Undeliverable(1, NAME, 7, 3, 3, 0, NAME),
    ]


@played
async def test_channel_that_is_lost_is_followed_by_another_with_the_next_datagram(
    bench: Bench,
) -> None:
    await bench.send()
    bench.far.channels[0].protocol.connection_lost(ConnectionResetError())
    assert len(bench.associations) == 0
    await bench.send(payload=b"again")
    assert bench.far.channels[1].sent == [udp.Send(HERE, 7, 63, True, b"again")]


@played
async def test_server_that_says_nonsense_loses_the_channel(bench: Bench) -> None:
    await bench.send()
    (channel,) = bench.far.channels
    channel.protocol.data_received(frame(b"nonsense"))
    assert channel.is_aborted
    assert bench.told == []
    assert len(bench.associations) == 0


@pytest.mark.parametrize("is_open", [True, False])
@played
async def test_association_that_the_gate_has_forgotten_is_closed(
    bench: Bench, is_open: bool
) -> None:
    if not is_open:
        bench.far.may_open.clear()
    await bench.send()
    bench.associations.on_forget(Forget(1))
    bench.associations.on_forget(Forget(1))
    assert len(bench.associations) == 0
    assert all(channel.is_aborted for channel in bench.far.channels)
    assert len(bench.far.channels) == is_open


@played
async def test_what_has_moved_is_reported_when_the_association_ends(bench: Bench) -> None:
    await bench.send(payload=bytes(100))
    await bench.send(host=NAME, payload=bytes(10))
    bench.far.channels[0].say(udp.Deliver(HERE, 7, bytes(1000)))
    bench.associations.close()
    assert bench.far.moved == [(HERE, 7, 100, 1000), (NAME, 7, 10, 0)]


@played
async def test_associations_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASSOCIATIONS", 1)
    await bench.send(1)
    await bench.send(2)
    assert len(bench.far.channels) == len(bench.associations) == 1
    bench.associations.on_forget(Forget(1))
    await bench.send(2)
    assert len(bench.far.channels) == 2


@played
async def test_destinations_are_bounded_and_the_oldest_is_judged_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DESTINATIONS", 2)
    for port in (1, 2, 3, 1):
        await bench.send(port=port)
    assert [port for _, port in bench.far.admitted] == [1, 2, 3, 1]
    assert bench.far.moved == [(HERE, 1, 2, 0), (HERE, 2, 2, 0)]


@played
async def test_datagrams_of_the_session_are_asked_for_where_there_are_any(bench: Bench) -> None:
    bench.far.has_datagrams = True
    await bench.send(1)
    await bench.send(2, host="2001:db8::7", family=6)
    assert bench.far.services == [UDP_IN_DATAGRAMS[4], UDP_IN_DATAGRAMS[6]]


@played
async def test_closed_association_is_reported_once_and_has_no_channel(bench: Bench) -> None:
    await bench.send(payload=bytes(5))
    (channel,) = bench.far.channels
    association = bench.associations._associations[1]
    for _ in range(2):
        association.close()
    assert bench.far.moved == [(HERE, 7, 5, 0)]
    assert channel.is_aborted
    assert not association.is_open


@played
async def test_destination_that_is_forgotten_takes_no_other_ones_origin(bench: Bench) -> None:
    """A name and the address that stands for it are two destinations with one target."""
    bench.far.hosts[NAME] = (HERE, 7)
    await bench.send(host=HERE)
    await bench.send(host=NAME)
    association = bench.associations._associations[1]
    association._forget((HERE, 7))
    (channel,) = bench.far.channels
    channel.say(udp.Deliver(HERE, 7, b"back"))
    assert bench.told == [Deliver(1, NAME, 7, b"back")]


@played
async def test_denied_name_is_not_the_origin_of_its_address(bench: Bench) -> None:
    bench.far.hosts["denied.example"] = (HERE, 7)
    await bench.send(host="denied.example")
    await bench.send(host=HERE)
    (channel,) = bench.far.channels
    channel.say(udp.Deliver(HERE, 7, b"back"))
    assert bench.told[1:] == [Deliver(1, HERE, 7, b"back")]
