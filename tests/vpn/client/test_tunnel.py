"""A tunnel is a dialogue with its gate; what the gate asks for is done in the session."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from client_lab import FakeConnector, FakeGate, VirtualLoop, close_all, has_ended
from dialogues import dialogue, until

from shim.protocol import GATEWAY4, datagrams
from shim.protocol.datagrams import Forget, Ping, Pong, Send
from shim.protocol.gate import (
    Accepted,
    Adopt,
    Cancel,
    Configure,
    Configured,
    Copy,
    DropCount,
    Dropped,
    DropReason,
    Forward,
    Forwarded,
    Known,
    LookedUp,
    Lookup,
    Open,
    Opened,
    Outcome,
    PoolState,
    PoolWanted,
    Reason,
    Refused,
    Started,
)
from shim.protocol.link import Link
from vpn.client.explain import TunnelContext
from vpn.client.session.renewing import Uplink
from vpn.client.session.state import Event, SessionState
from vpn.client.tunnel import DRAIN_S, STANDSTILL_S, Tunnel, open_tunnel, resolver_for
from vpn.config.settings import SessionSettings
from vpn.errors import ConfigurationError, OverlayError
from vpn.policy.report import Report
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.protocol.services import RESOLVER
from vpn.ssh.open_failure import Failure

A = 1
KEY = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 80])
SETTINGS = Configure(True, ("corp.example",))


class NoSockets:
    """Gives no socket, so that nothing leaves the machine of the test."""

    async def outer_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        raise OSError("no network")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


class Bench:
    """A tunnel between a gate and a session."""

    def __init__(self, tunnel: Tunnel, gate: FakeGate, connector: FakeConnector) -> None:
        self.tunnel = tunnel
        self.gate = gate
        self.session = connector.sessions[0]

    async def configure(self) -> Link:
        """Configure the gate; returns its link for datagrams."""
        configuring = asyncio.create_task(self.tunnel.configure(SETTINGS))
        assert await self.gate.configured(datagrams.GATE) == SETTINGS
        await configuring
        assert self.gate.datagrams is not None
        return self.gate.datagrams

    async def associate(self) -> Link:
        """Have an association whose channel is still opening; returns the link of datagrams."""
        self.session.is_silent = True
        link = await self.configure()
        link.send(Send(1, 4, "www.example", 9, 64, False, b"x"))
        await until(lambda: len(self.tunnel._associations) == 1)
        return link

    async def open(self, flow: int = 1) -> None:
        """Open a flow at the far end."""
        self.gate.send(Open(flow, KEY, "www.example", 80))
        assert (await self.gate.next(Opened))[0] == Opened(flow)

    async def accept(self, flow: int = 1) -> socket.socket:
        """Open a flow, and accept it; returns the application's socket."""
        await self.open(flow)
        active = self.tunnel.counters.active
        ours, theirs = tcp_pair()
        with theirs:
            self.gate.send(Accepted(flow), (theirs.fileno(),))
        await until(lambda: self.tunnel.counters.active == active + 1)
        return ours


async def uplink_of(connector: FakeConnector) -> Uplink:
    state = SessionState(0.0)

    def report(event: Event) -> None:
        state.on(event, 0.0)

    return Uplink(await connector.connect(), connector.connect, state, report)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    gate, connector = FakeGate(), FakeConnector()
    settings = SessionSettings(dns="virtual", hosts={"me": (GATEWAY4, 0)})
    tunnel = open_tunnel(gate.link, await uplink_of(connector), settings, NoSockets())
    yield Bench(tunnel, gate, connector)
    tunnel.abort()
    gate.close()
    await tunnel.closed


# Configuration.


@dialogue(bench)
async def test_new_is_configured_once_the_gate_says_so(bench: Bench) -> None:
    configuring = asyncio.create_task(bench.tunnel.configure(SETTINGS))
    _, fds = await bench.gate.next(Configure)
    close_all(fds)
    assert not configuring.done()
    bench.gate.send(Configured())
    await configuring
    bench.gate.send(Configured())  # as the gate that follows says
    await bench.open()


@dialogue(bench)
async def test_new_gate_ends_before_it_is_configured(bench: Bench) -> None:
    configuring = asyncio.create_task(bench.tunnel.configure(SETTINGS))
    bench.gate.close()
    with pytest.raises(OverlayError, match="the gate has ended"):
        await configuring
    assert bench.tunnel.closed.done()


@dialogue(bench)
async def test_gate_that_follows_another_is_told_everything_again(bench: Bench) -> None:
    await bench.configure()
    await bench.open(7)
    packets = bench.tunnel.captures.begin()
    assert packets is not None
    close_all((await bench.gate.next(Copy))[1])
    bench.session.is_silent = True
    assert bench.gate.datagrams is not None
    bench.gate.datagrams.send(Send(1, 4, "www.example", 9, 64, False, b"x"))
    await until(lambda: bench.tunnel._associations.is_opening)
    bench.gate.send(Started(2))
    adopted, _ = await bench.gate.next(Adopt)
    assert adopted.flows == (Known(7, KEY, False),)
    assert not len(bench.tunnel._associations)
    again, fds = await bench.gate.next(Configure)
    assert again == SETTINGS
    close_all(fds)
    close_all((await bench.gate.next(Copy))[1])
    packets.close()


@dialogue(bench)
async def test_first_gate_is_told_nothing_again(bench: Bench) -> None:
    await bench.configure()
    bench.gate.send(Started(1))
    assert await bench.gate.says_nothing()


@dialogue(bench)
async def test_gate_that_follows_before_any_was_configured_waits(bench: Bench) -> None:
    bench.gate.send(Started(2))
    assert await bench.gate.says_nothing()


# Flows.


@dialogue(bench)
async def test_flow_is_opened_at_the_far_end_and_listed(bench: Bench) -> None:
    await bench.open()
    assert bench.session.opened == [("www.example", 80)]
    assert [one.id for one in bench.tunnel.list_flows()] == ["t1"]
    assert bench.tunnel.counters.opened == 1


@dialogue(bench)
async def test_flow_is_refused_as_the_far_end_says(bench: Bench) -> None:
    bench.session.failure = Failure.EHOSTUNREACH
    bench.gate.send(Open(1, KEY, "www.example", 80))
    assert (await bench.gate.next(Refused))[0].reason is Reason.HOST_UNREACHABLE


@dialogue(bench)
async def test_opening_that_the_application_gives_up_is_none(bench: Bench) -> None:
    bench.session.is_silent = True
    bench.gate.send(Open(1, KEY, "www.example", 80))
    await until(bench.tunnel.list_flows)
    bench.gate.send(Cancel(1))
    await until(lambda: not bench.tunnel.list_flows())


@dialogue(bench)
async def test_flow_that_is_killed_is_reset_and_any_other_name_is_none(bench: Bench) -> None:
    with await bench.accept():
        for name in ("", "t", "tt1", "t2", "t-1", "t\u0661", "x1"):
            assert not bench.tunnel.kill_flow(name)
        assert bench.tunnel.kill_flow("t1")
        await until(lambda: not bench.tunnel.list_flows())


@dialogue(bench)
async def test_descriptor_of_what_is_not_expected_is_closed(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.gate.send(Accepted(99), (theirs.fileno(),))
        theirs.close()
        ours.settimeout(5)
        assert await asyncio.to_thread(ours.recv, 1) == b""


# Names, pings and datagrams.


@dialogue(bench)
async def test_name_is_looked_up(bench: Bench) -> None:
    bench.gate.send(Lookup(5, "www.example", A))
    assert (await bench.gate.next(LookedUp))[0] == LookedUp(5, Outcome.FOUND)


@dialogue(bench)
async def test_message_to_another_resolver_goes_outside(bench: Bench) -> None:
    bench.gate.send(Forward(6, bytes([192, 0, 2, 53]), False, b"query"))
    assert (await bench.gate.next(Forwarded))[0] == Forwarded(6, b"")


@dialogue(bench)
async def test_pool_is_asked_and_answers(bench: Bench) -> None:
    asking = asyncio.create_task(bench.tunnel.pool.ask("www.example"))
    wanted, _ = await bench.gate.next(PoolWanted)
    state = PoolState(wanted.query, 8, 3, 1, "www.example", (), False)
    bench.gate.send(state)
    assert await asking == state


@dialogue(bench)
async def test_dropped_packets_are_added_up(bench: Bench) -> None:
    for packets in (2, 3):
        bench.gate.send(Dropped((DropCount(DropReason.LAND, packets),)))
    await until(lambda: bench.tunnel.counters.dropped[DropReason.LAND] == 5)


@dialogue(bench)
async def test_ping_is_answered_over_the_link_for_datagrams(bench: Bench) -> None:
    link = await bench.configure()
    link.send(Ping(1, 4, "me", 64, False, 9, b"payload"))
    pong, _ = await bench.gate.next(Pong, link)
    assert (pong.query, pong.sequence, pong.payload) == (1, 9, b"payload")


@dialogue(bench)
async def test_association_is_there_until_it_is_forgotten(bench: Bench) -> None:
    link = await bench.associate()
    link.send(Forget(1))
    await until(lambda: len(bench.tunnel._associations) == 0)


# Its end.


@dialogue(bench)
async def test_aborted_resets_flows_and_ends_captures_and_datagrams(bench: Bench) -> None:
    link = await bench.associate()
    bench.session.is_silent = False
    with await bench.accept() as application:
        packets = bench.tunnel.captures.begin()
        assert packets is not None
        packets.close()
        bench.tunnel.abort()
        assert not bench.tunnel.captures.is_active
        await until(lambda: not bench.tunnel.list_flows())
        assert has_ended(link)
        assert len(bench.tunnel._associations) == 0
        application.settimeout(5)
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(application.recv, 1)
    assert not bench.tunnel.closed.done()


@dialogue(bench)
async def test_aborted_ends_a_channel_that_is_opening_for_pings(bench: Bench) -> None:
    bench.session.is_silent = True
    link = await bench.configure()
    link.send(Ping(1, 4, "www.example", 64, False, 9, b""))
    await until(lambda: bench.session.opened)
    opening = [task for task in asyncio.all_tasks() if "Echo._open" in str(task.get_coro())]
    assert opening
    bench.tunnel.abort()
    await asyncio.wait(opening, timeout=5)
    assert all(task.done() for task in opening)


class Drain:
    """A drain in virtual time."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._draining = asyncio.create_task(bench.tunnel.drain())

    async def took_s(self) -> float:
        await self._draining
        return self._loop.time() - self._began_s


def virtually(test: Callable[[Bench], Awaitable[float]]) -> float:
    async def act() -> float:
        async with bench() as made:
            return await test(made)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(act())


def test_drained_at_once_without_flows() -> None:
    async def act(made: Bench) -> float:
        return await Drain(made).took_s()

    assert virtually(act) == 0.0


def test_drained_when_the_last_flow_ends() -> None:
    async def act(made: Bench) -> float:
        made.tunnel.counters.active = 1
        drain = Drain(made)
        await asyncio.sleep(1)
        made.tunnel.counters.active = 0
        return await drain.took_s()

    assert virtually(act) == pytest.approx(1, abs=0.1)


def test_drained_after_a_standstill() -> None:
    async def act(made: Bench) -> float:
        made.tunnel.counters.active = 1
        drain = Drain(made)
        await asyncio.sleep(2)
        made.tunnel.counters.bytes_up += 1
        return await drain.took_s()

    assert virtually(act) == pytest.approx(2 + STANDSTILL_S, abs=0.1)


def test_drained_after_a_while_though_it_goes_on() -> None:
    async def act(made: Bench) -> float:
        made.tunnel.counters.active = 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()

        async def go_on() -> None:
            while True:
                await asyncio.sleep(1)
                made.tunnel.counters.bytes_up += 1

        going_on = asyncio.create_task(go_on())
        await made.tunnel.drain()
        going_on.cancel()
        return loop.time() - began_s

    assert virtually(act) == pytest.approx(DRAIN_S, abs=0.1)


def test_drained_once_datagrams_have_a_channel_too() -> None:
    async def act(made: Bench) -> float:
        made.session.is_silent = True
        link = await made.configure()
        link.send(Send(1, 4, "www.example", 9, 64, False, b"x"))
        await until(lambda: made.tunnel._associations.is_opening)
        return await Drain(made).took_s()

    assert virtually(act) == pytest.approx(STANDSTILL_S, abs=0.1)


# What it is made of.


@dialogue(bench)
async def test_explainer_is_there_once_it_was_given_its_context(bench: Bench) -> None:
    assert bench.tunnel.explainer is None
    context = TunnelContext(server="alice@vpn", asked="")
    bench.tunnel.explain(await uplink_of(FakeConnector()), SETTINGS, lambda: context)
    assert bench.tunnel.explainer is not None


@pytest.mark.parametrize(
    ("dns", "server", "is_ours", "asked"),
    [
        ("virtual", None, True, None),
        ("virtual", "192.0.2.53", True, None),
        ("", None, False, None),
        ("", None, True, RESOLVER),
        ("", "192.0.2.53", False, ("192.0.2.53", 53)),
        ("remote", None, True, RESOLVER),
        ("remote", "192.0.2.53", True, ("192.0.2.53", 53)),
    ],
)
def test_resolver_is_that_of_the_user_or_of_our_server(
    dns: str, server: str | None, is_ours: bool, asked: tuple[str, int] | None
) -> None:
    async def act() -> None:
        connector = FakeConnector(is_overlay_server=is_ours)
        resolver = resolver_for(await uplink_of(connector), dns, server)
        if resolver is None:
            assert asked is None
            return
        await resolver.ask("www.example", A)
        assert connector.sessions[0].opened[:1] == [asked]
        resolver.close()

    asyncio.run(act())


def test_resolver_that_nobody_has_is_an_error() -> None:
    async def act() -> None:
        with pytest.raises(ConfigurationError, match="--dns-server"):
            resolver_for(await uplink_of(FakeConnector(is_overlay_server=False)), "remote", None)

    asyncio.run(act())


def test_resolver_forgets_what_a_lost_session_has_said() -> None:
    async def act() -> None:
        uplink = await uplink_of(FakeConnector())
        resolver = resolver_for(uplink, "remote", None)
        assert resolver is not None
        assert uplink._listeners == [resolver.forget]

    asyncio.run(act())


def test_limits_and_report_are_those_of_the_settings() -> None:
    async def act() -> None:
        gate, connector, report = FakeGate(), FakeConnector(), Report()
        policy = Policy([parse_rule(Action.DENY, "www.example")])
        settings = SessionSettings(dns="virtual", policy=policy)
        tunnel = open_tunnel(gate.link, await uplink_of(connector), settings, NoSockets(), report)
        gate.send(Open(1, KEY, "www.example", 80))
        assert (await gate.next(Refused))[0].reason is Reason.DENIED
        assert report.has_denied
        assert tunnel.resolver is None
        gate.close()
        await tunnel.closed

    asyncio.run(act())


def test_aborted_closes_the_resolver() -> None:
    async def act() -> None:
        gate, connector = FakeGate(), FakeConnector()
        tunnel = open_tunnel(gate.link, await uplink_of(connector), SessionSettings(), NoSockets())
        resolver = tunnel.resolver
        assert resolver is not None
        is_closed: list[bool] = []
        resolver.close = lambda: is_closed.append(True)  # type: ignore[method-assign]
        tunnel.abort()
        assert is_closed == [True]
        gate.close()
        await tunnel.closed

    asyncio.run(act())
