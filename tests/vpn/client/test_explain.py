"""What is explained is what gate, rules, resolver and session would do; nothing changes by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import cast

import pytest
from dialogues import Test, dialogue

from dns import framing, response
from dns.message import Query, parse_query
from dns.pool import Pool, buffer_size
from shim.gate.resolver import Names
from shim.protocol import GATEWAY4, POOL4, POOL6
from shim.protocol.gate import Configure, PoolWanted
from shim.protocol.link import Message
from vpn.client.explain import Explainer, TunnelContext, asked_of
from vpn.client.flows.admission import Limits
from vpn.client.flows.egress import Egress
from vpn.client.names.far_resolver import FarResolver
from vpn.client.names.lookups import Lookups
from vpn.client.names.pool_query import PoolQuestions
from vpn.client.session.renewing import Uplink
from vpn.client.session.state import SessionState
from vpn.policy.report import Report
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.ssh.session.client import Session

A, PTR, MX, AAAA = 1, 12, 15, 28
SERVER = "198.51.100.2"


class Idle:
    """A session of our own server that nobody uses."""

    is_overlay_server = True


class Bench:
    """Everything that is explained, with a far end that knows `v4only` and nothing else."""

    def __init__(
        self,
        limits: Limits,
        *,
        suffixes: tuple[str, ...] = (),
        asks: bool = True,
        port: int = 0,
        **more: object,
    ) -> None:
        memory = memoryview(bytearray(buffer_size(64)))
        self.pool = Pool(memory, IPv4Network(POOL4), IPv6Network(POOL6), b"key", 64)
        self.names = Names(self.pool)
        self.questions = PoolQuestions(self.on_message)
        state = SessionState(0.0)
        self.uplink = Uplink(
            cast(Session, Idle()), self.connect, state, lambda event: state.on(event, 0.0)
        )
        self.report = Report()
        self.resolver = FarResolver(lambda: asyncio.open_connection("127.0.0.1", port))
        resolver = self.resolver if asks else None
        self.around = {
            "server": "alice@vpn (quic)",
            "server_addresses": frozenset({SERVER}),
            "asked": asked_of(None, is_asking=asks),
            **more,
        }
        self.explainer = Explainer(
            Egress(self.uplink, limits, self.report),
            Lookups(resolver, limits, self.report),
            self.uplink,
            self.questions,
            Configure(asks or bool(limits.hosts), suffixes),
            lambda: TunnelContext(**self.around),  # type: ignore[arg-type]
        )

    async def connect(self) -> Session:
        raise AssertionError("nobody reconnects here")

    def on_message(self, message: Message) -> None:
        assert isinstance(message, PoolWanted)
        state = self.names.on_pool_wanted(message, 0.0)
        asyncio.get_running_loop().call_soon(self.questions.on_state, state)


async def far_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(2))
            query = parse_query(await reader.readexactly(length))
            assert isinstance(query, Query)
            if query.labels[0] == b"v4only":
                found = response.addresses(
                    query, [IPv4Address("192.0.2.9")], over_tcp=True, ttl_s=60
                )
            else:
                found = response.nx_domain(query)
            writer.write(framing.frame(found))
    except asyncio.IncompleteReadError:
        writer.close()


@asynccontextmanager
async def bench_of(limits: Limits | None = None, **options: object) -> AsyncIterator[Bench]:
    async with await asyncio.start_server(far_end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bench = Bench(limits or Limits(), port=port, **options)  # type: ignore[arg-type]
        yield bench
        bench.resolver.close()
        await asyncio.sleep(0.01)


def played(limits: Limits | None = None, **options: object) -> Callable[[Test], Test]:
    return dialogue(partial(bench_of, limits, **options))


def rules(*texts: str) -> Limits:
    return Limits(Policy([parse_rule(Action.ALLOW, text) for text in texts]))


@played()
async def test_name_is_asked_for_and_its_addresses_are_those_that_it_would_have(
    bench: Bench,
) -> None:
    before = await bench.explainer.destination("V4only.example.", 80)
    assert (before.name, before.outcome) == ("v4only.example", "found")
    assert before.way is not None
    assert (before.way.way, before.way.asked, before.way.is_virtual) == ("far", "server", True)
    assert (before.is_assigned, bench.pool.used) == (False, 0)
    pair = bench.pool.assign("v4only.example", 0.0)
    assert pair is not None
    after = await bench.explainer.destination("v4only.example", 80)
    assert after.is_assigned
    assert after.addresses == before.addresses == (str(pair[0]),)
    assert after.way is not None
    assert (after.way.way, after.way.age_s, after.way.left_s) == ("cached", 0, 60)
    back = await bench.explainer.destination(after.addresses[0], 80)
    assert (back.name, back.is_pool, back.way) == ("v4only.example", True, None)


@played()
async def test_name_that_does_not_exist_has_no_address(bench: Bench) -> None:
    fate = await bench.explainer.destination("nothing.example", 80)
    assert (fate.outcome, fate.addresses) == ("nx_domain", ())


@played(rules("10.0.0.0/8", "*.example:80"))
async def test_nothing_that_is_asked_here_comes_to_the_report(bench: Bench) -> None:
    fate = await bench.explainer.destination("v4only.example", 80)
    assert (fate.obstacle, fate.rule, fate.rule_number) == (None, "*.example:80", 2)
    denied = await bench.explainer.destination("v4only.example.org", 80)
    assert denied.way is not None
    assert (denied.way.way, denied.obstacle, denied.outcome) == ("refused", "rule", "")
    document = bench.report.document(start=0, end=1, target="", command=(), exit_status=0)
    assert document.contacts == ()


@played()
async def test_without_a_session_a_name_cannot_be_asked_for(bench: Bench) -> None:
    bench.uplink._on_lost("it fell silent")
    assert bench.explainer.resolution("other.example", A).is_away
    fate = await bench.explainer.destination("192.0.2.1", 80)
    assert (fate.obstacle, fate.last_error) == ("session", "it fell silent")


@pytest.mark.parametrize(
    ("name", "rtype", "way", "is_virtual"),
    [
        ("www.corp.example", A, "far", True),
        ("www.corp.example", AAAA, "far", True),
        ("www.corp.example", MX, "far", False),
        ("www.example.org", A, "forwarded", False),
        ("x.onion", A, "forwarded", False),
        ("_dns.resolver.arpa", A, "special", False),
        ("db.corp.example", A, "static", True),
        ("www.corp.example", 65, "virtual", False),
        (ip_address("198.18.0.99").reverse_pointer, PTR, "virtual", False),
    ],
)
@played(
    Limits(hosts={"db.corp.example": ("10.0.0.5", 5432)}),
    suffixes=("corp.example",),
)
async def test_way_is_that_of_the_gate_and_then_of_the_client(
    bench: Bench, name: str, rtype: int, way: str, is_virtual: bool
) -> None:
    found = bench.explainer.resolution(name, rtype)
    assert (found.way, found.is_virtual) == (way, is_virtual)


@played()
async def test_server_without_udp_carries_connections_and_no_ping(bench: Bench) -> None:
    bench.uplink.is_overlay_server = False
    for port, obstacle in ((80, None), (0, "service")):
        found = await bench.explainer.destination("192.0.2.1", port)
        assert (found.obstacle, found.carries_udp) == (obstacle, False)


@pytest.mark.parametrize("more", [{"is_captured": False}, {"paused_s": 5}])
@played()
async def test_names_that_are_not_captured_are_asked_outside(
    bench: Bench, more: dict[str, object]
) -> None:
    bench.around |= more
    assert bench.explainer.resolution("localhost", A).way == "outside"
    assert (await bench.explainer.destination("www.example", 80)).outcome == ""


@played(asks=False)
async def test_where_nobody_is_asked_every_name_exists(bench: Bench) -> None:
    fate = await bench.explainer.destination("www.example", 80)
    assert fate.way is not None
    assert (fate.way.way, fate.way.asked, len(fate.addresses)) == ("virtual", "", 2)
    assert (await bench.explainer.dns_status()).mode == "virtual"


@played()
async def test_address_is_the_servers_the_gates_or_another(bench: Bench) -> None:
    for host, facts in {
        SERVER: (True, False, "server"),
        GATEWAY4: (False, False, "loopback"),
        "198.18.0.99": (False, True, "server"),
        "192.0.2.1": (False, False, "server"),
    }.items():
        fate = await bench.explainer.destination(host, 80)
        assert (fate.is_server, fate.is_pool, fate.exit) == facts, host


@played(
    Limits(hosts={"db.example": ("2001:db8::5", 1), "web.example": ("10.0.0.5", 0)}),
    suffixes=("corp.example",),
)
async def test_status_of_names_is_that_of_its_parts(bench: Bench) -> None:
    bench.pool.assign("a.corp.example", 0.0)
    bench.pool.pin("a.corp.example")
    for _ in range(3):
        await bench.resolver.ask("v4only.corp.example", A)
    said = await bench.explainer.dns_status()
    assert said.pool is not None
    assert (said.pool.slots, said.pool.used, said.pool.pinned) == (64, 1, 1)
    assert (said.cache_answers, said.cache_hits) == (1, 2)
    assert (said.mode, said.asked, said.suffixes) == ("remote", "server", ("corp.example",))
    assert said.hosts == {"db.example": "[2001:db8::5]:1", "web.example": "10.0.0.5"}


@pytest.mark.parametrize("host", ["", "a..b", "a b", "1.2.3", "é"])
@played()
async def test_host_that_is_none_is_an_error(bench: Bench, host: str) -> None:
    with pytest.raises(ValueError):
        await bench.explainer.destination(host, 80)
