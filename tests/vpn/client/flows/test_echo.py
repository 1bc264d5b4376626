"""Pings of a gate: rules first, then one channel; what a server says goes back as it is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from dialogues import dialogue

from shim.protocol import GATEWAY4
from shim.protocol.datagrams import Ping, Pong, Unanswered
from shim.protocol.link import Message
from vpn.client.flows import echo as module
from vpn.client.flows.admission import Limits
from vpn.client.flows.echo import Echo
from vpn.client.flows.egress import Egress
from vpn.policy.report import Contact, Report
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.protocol import echo as wire
from vpn.protocol.echo import Failed, Reply, Request
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.framing import Frames, frame
from vpn.protocol.services import ECHO
from vpn.transport.memory import memory_pair
from vpn.transport.pump import Pump

PAYLOAD = b"a pattern"


class Server(asyncio.Protocol):
    """The far end of a channel: what was asked, and answers as the test wants."""

    def __init__(self) -> None:
        self._requests = Frames(wire.MAX_MESSAGE)
        self.asked: list[Request] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.asked += map(wire.decode_request, self._requests.feed(data))

    def answer(self, *answers: Reply | Failed) -> None:
        self.transport.write(b"".join(frame(wire.encode(one)) for one in answers))


class Session:
    """Has the service, or a reason why not."""

    is_up = is_overlay_server = True
    has_datagrams = False

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.servers: list[Server] = []

    async def open(self, host: str, port: int) -> Pump:
        raise NotImplementedError

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        assert (host, port) == ECHO
        await asyncio.sleep(0)
        if self.failure is not None:
            raise OpenFailed(self.failure)
        server = Server()
        self.servers.append(server)
        memory_pair(server, protocol)
        await settle(20)


class Bench(AbstractAsyncContextManager):
    """A gate's pings on one side, a session on the other."""

    def __init__(self, limits: Limits) -> None:
        self.session = Session()
        self.report = Report()
        self.said: list[Message] = []
        egress = Egress(self.session, limits, self.report)
        self.echo = Echo(egress, self.said.append)

    async def __aexit__(self, *_: object) -> None:
        self.echo.close()

    @property
    def server(self) -> Server:
        return self.session.servers[-1]

    @property
    def contacts(self) -> tuple[Contact, ...]:
        return self.report.document(start=0, end=1, target="t", command=(), exit_status=0).contacts


async def settle(rounds: int = 200) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


def rules(*texts: str) -> Policy:
    """Rules as on the command line: `+name` allows, `-name` denies."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return Policy([parse_rule(actions[text[0]], text[1:]) for text in texts])


def ping(query: int = 1, host: str = "192.0.2.1", sequence: int = 7, family: int = 4) -> Ping:
    return Ping(query, 4 if family == 4 else 6, host, 63, True, sequence, PAYLOAD)


def played(limits: Limits | None = None) -> Callable[..., Callable[..., None]]:
    return dialogue(lambda: Bench(limits or Limits()))


@played()
async def test_ping_is_asked_of_the_server_and_answered_as_the_server_says(bench: Bench) -> None:
    bench.echo.on_ping(ping(sequence=7))
    await settle()
    bench.echo.on_ping(ping(sequence=8))
    await settle()
    assert bench.server.asked == [
        Request(1, 4, "192.0.2.1", 63, True, number, PAYLOAD) for number in (7, 8)
    ]
    bench.server.answer(
        Reply(1, 8, 60, "192.0.2.1", PAYLOAD),
        Reply(1, 8, 60, "192.0.2.1", PAYLOAD),
        Failed(1, 7, 11, 0, 0, "192.0.2.254"),
    )
    await settle()
    pong = Pong(1, 8, 60, "192.0.2.1", PAYLOAD)
    assert bench.said == [pong, pong, Unanswered(1, 7, 11, 0, 0, "192.0.2.254")]
    assert len(bench.session.servers) == 1


@played()
async def test_ping_that_nobody_answers_is_not_answered(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    assert bench.said == []


@pytest.mark.parametrize(
    ("failure", "said4", "said6"),
    [
        (Failure.POLICY, (3, 13), (1, 1)),
        (Failure.UNSUPPORTED, (3, 13), (1, 1)),
        (Failure.UNAVAILABLE, (3, 0), (1, 0)),
    ],
)
@played()
async def test_service_that_cannot_be_had_is_said_at_once(
    bench: Bench, failure: Failure, said4: tuple[int, int], said6: tuple[int, int]
) -> None:
    bench.session.failure = failure
    bench.echo.on_ping(ping())
    bench.echo.on_ping(ping(2, "2001:db8::1", family=6))
    await settle()
    assert bench.said == [
        Unanswered(1, 7, *said4, 0, ""),
        Unanswered(2, 7, *said6, 0, ""),
    ]


@played(Limits(rules("-*.example.com")))
async def test_denied_never_leaves(bench: Bench) -> None:
    bench.echo.on_ping(ping(host="www.example.com"))
    bench.echo.on_ping(ping(host="www.example.com", sequence=8))
    await settle()
    assert bench.said == [Unanswered(1, number, 3, 13, 0, "") for number in (7, 8)]
    assert bench.session.servers == []
    assert bench.report.has_denied
    assert bench.contacts[0].flows == 1


@played(Limits(rules("+www.example.com:443", "+192.0.2.0/24")))
async def test_rule_with_a_port_says_nothing_about_pings(bench: Bench) -> None:
    bench.echo.on_ping(ping(host="www.example.com"))
    bench.echo.on_ping(ping(2, host="192.0.2.1"))
    await settle()
    assert bench.said == [Unanswered(1, 7, 3, 13, 0, "")]
    assert [each.host for each in bench.server.asked] == ["192.0.2.1"]


@played(Limits(rules("-*.example.com")))
async def test_query_that_changes_its_host_is_judged_again(bench: Bench) -> None:
    bench.echo.on_ping(ping(host="www.example.org"))
    bench.echo.on_ping(ping(host="www.example.com"))
    await settle()
    assert [each.host for each in bench.server.asked] == ["www.example.org"]


@played(Limits(hosts={"db.example": ("10.0.0.5", 5432)}))
async def test_static_name_is_pinged_at_its_address_and_answers_as_itself(bench: Bench) -> None:
    bench.echo.on_ping(ping(host="db.example"))
    await settle()
    assert bench.server.asked[0].host == "10.0.0.5"
    bench.server.answer(Reply(1, 7, 60, "10.0.0.5", PAYLOAD), Failed(1, 7, 3, 1, 0, "10.0.0.5"))
    await settle()
    assert bench.said == [
        Pong(1, 7, 60, "db.example", PAYLOAD),
        Unanswered(1, 7, 3, 1, 0, "db.example"),
    ]


@played(Limits(hosts={"host.example": (GATEWAY4, 0)}))
async def test_static_name_of_this_machine_answers_here(bench: Bench) -> None:
    bench.echo.on_ping(ping(host="host.example"))
    await settle()
    assert bench.said == [Pong(1, 7, 64, "host.example", PAYLOAD)]
    assert bench.session.servers == []


@played()
async def test_channel_that_was_lost_is_followed_by_another(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    bench.server.transport.abort()
    await settle()
    bench.echo.on_ping(ping(sequence=8))
    await settle()
    assert len(bench.session.servers) == 2
    assert [each.sequence for each in bench.server.asked] == [8]


@played()
async def test_server_that_sends_no_message_loses_the_channel(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    bench.server.transport.write(b"\xff\xff\xff\xff")
    await settle()
    bench.echo.on_ping(ping())
    await settle()
    assert len(bench.session.servers) == 2


@played()
async def test_answer_to_what_nobody_asked_is_dropped(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    bench.server.answer(Reply(2, 7, 60, "192.0.2.1", PAYLOAD), Failed(2, 7, 3, 1, 0, ""))
    await settle()
    assert bench.said == []


@played()
async def test_session_that_takes_nothing_loses_pings_and_keeps_none(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    bench.server.transport.pause_reading()
    for number in range(2_000):
        bench.echo.on_ping(Ping(1, 4, "192.0.2.1", 63, True, number & 0xFFFF, bytes(60_000)))
    bench.server.transport.resume_reading()
    await settle()
    assert 1 < len(bench.server.asked) < 1000


@played()
async def test_pings_that_wait_for_the_channel_are_bounded(bench: Bench) -> None:
    for number in range(1000):
        bench.echo.on_ping(ping(sequence=number))
    await settle()
    assert len(bench.server.asked) == module.MAX_WAITING


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Reply(1, 7, 60, "192.0.2.1", PAYLOAD), "opened"),
        (Failed(1, 7, 3, 1, 0, ""), "unreachable"),
        (Failed(1, 7, 3, 13, 0, ""), "denied"),
        (Failed(1, 7, 11, 0, 0, "192.0.2.254"), None),
        (Failed(1, 7, 3, 4, 1280, "192.0.2.254"), None),
    ],
)
@played()
async def test_first_result_of_a_query_is_reported(
    bench: Bench, answer: Reply | Failed, outcome: str | None
) -> None:
    for number in (7, 8):
        bench.echo.on_ping(ping(sequence=number))
    await settle()
    bench.server.answer(answer, answer)
    await settle()
    (contact,) = bench.contacts
    assert (contact.host, contact.flows, contact.ports) == ("192.0.2.1", 1, ())
    counted = {str(each): count for each, count in contact.outcomes.items() if count}
    assert counted == ({outcome: 1} if outcome else {})


@played()
async def test_service_that_cannot_be_had_is_reported_once_for_a_query(bench: Bench) -> None:
    bench.session.failure = Failure.UNAVAILABLE
    for number in (7, 8):
        bench.echo.on_ping(ping(sequence=number))
        await settle()
    (contact,) = bench.contacts
    assert (contact.flows, contact.outcomes["unreachable"]) == (1, 1)


@played()
async def test_query_that_was_idle_for_longest_makes_room_and_is_judged_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 2)
    for number in (1, 2, 1, 3, 1, 2):
        bench.echo.on_ping(ping(number, host=f"host{number}.example"))
        await settle()
    flows = {contact.host: contact.flows for contact in bench.contacts}
    assert flows == {"host1.example": 1, "host2.example": 2, "host3.example": 1}


@played()
async def test_closed_echo_closes_its_channel(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await settle()
    bench.echo.close()
    await settle()
    assert bench.server.transport.is_closing()


@played()
async def test_closed_while_the_channel_opens_asks_nothing(bench: Bench) -> None:
    bench.echo.on_ping(ping())
    await asyncio.sleep(0)
    bench.echo.close()
    await settle()
    assert (bench.session.servers, bench.said) == ([], [])
