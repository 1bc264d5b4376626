"""A tunnel: one gate, whose messages are answered out of one session. `up` and `run` share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

from dns.codes import PORT
from shim.protocol.datagrams import Forget, Ping, Send
from shim.protocol.gate import (
    Accepted,
    Cancel,
    Configure,
    Configured,
    Dropped,
    Forward,
    Forwarded,
    Lookup,
    Open,
    PoolState,
    Started,
)
from shim.protocol.link import Link, Message
from vpn.client.explain import Explainer, TunnelContext
from vpn.client.flows.admission import Limits
from vpn.client.flows.echo import Echo
from vpn.client.flows.egress import Egress
from vpn.client.flows.tcp import Counters, Flows
from vpn.client.flows.udp import Associations
from vpn.client.names.far_resolver import FarResolver
from vpn.client.names.forwarder import Forwarder
from vpn.client.names.lookups import Lookups
from vpn.client.names.pool_query import PoolQuestions
from vpn.client.packet_tap import PacketTap
from vpn.client.session.renewing import Uplink
from vpn.client.shim.datagram_link import DatagramLink
from vpn.client.shim.link import AsyncLink, close_all
from vpn.config.settings import SessionSettings
from vpn.control.messages import FlowStatus
from vpn.errors import ConfigurationError, OverlayError
from vpn.policy.report import Report
from vpn.protocol.services import RESOLVER
from vpn.transport.base import OuterSockets

DRAIN_S: Final = 10.0
STANDSTILL_S: Final = 3.0
_STEP_S: Final = 0.03


class Tunnel:
    """The client's end of a gate: flows, datagrams, pings, names and captures.

    A flow that needs a session while there is none is refused by `egress`.
    """

    def __init__(self, gate: Link, egress: Egress, lookups: Lookups, sockets: OuterSockets) -> None:
        """`sockets` bypass the tunnel: for DNS messages to resolvers outside it."""
        self._egress = egress
        self._lookups = lookups
        self._forwarder = Forwarder(sockets)
        self._tasks: set[asyncio.Task[None]] = set()
        self._settings: Configure | None = None
        self._configured: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate = AsyncLink(gate, self._on_message)
        self._flows = Flows(egress, self._gate.send)
        self._datagrams = DatagramLink(self._on_datagram, self._gate.close)
        self._echo = Echo(egress, self._datagrams.send)
        self._associations = Associations(egress, self._datagrams.send)
        self.captures = PacketTap(self._gate.send)
        self.pool = PoolQuestions(self._gate.send)
        self.explainer: Explainer | None = None
        """None until `explain` is called."""

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the link to the gate has closed."""
        return self._gate.closed

    @property
    def counters(self) -> Counters:
        """Counts of flows, bytes and dropped packets, since the tunnel was made."""
        return self._flows.counters

    @property
    def resolver(self) -> FarResolver | None:
        """The resolver of the far end; None in mode `virtual`."""
        return self._lookups.resolver

    async def configure(self, settings: Configure) -> None:
        """Tell the gate how to answer names, and wait until it does. Raises OverlayError.

        Before that it answers none. A gate that replaces this one is told the same.
        """
        self._settings = settings
        self._tell(settings)
        ends: tuple[asyncio.Future[None], ...] = (self._configured, self._gate.closed)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._configured.done():
            raise OverlayError("the gate has ended; run 'overlay-vpn recover', then again")

    async def drain(self) -> None:
        """Wait until every flow has drained: at most 10 s, and no longer than 3 s without progress.

        Progress is what goes into the session.
        """
        loop = asyncio.get_running_loop()
        ends_s, sent = loop.time() + DRAIN_S, self._flows.sent_bytes
        idle_ends_s = loop.time() + STANDSTILL_S
        while self._has_something_left and loop.time() < min(ends_s, idle_ends_s):
            await asyncio.sleep(_STEP_S)
            if self._flows.sent_bytes != sent:
                sent, idle_ends_s = self._flows.sent_bytes, loop.time() + STANDSTILL_S

    def explain(
        self, uplink: Uplink, configured: Configure, context: Callable[[], TunnelContext]
    ) -> None:
        """Explain names and destinations from now on; see `explain.Explainer`."""
        self.explainer = Explainer(
            self._egress, self._lookups, uplink, self.pool, configured, context
        )

    def list_flows(self) -> list[FlowStatus]:
        """Return all flows, oldest first."""
        return self._flows.list(self._egress.exit_of)

    def kill_flow(self, flow: str) -> bool:
        """Reset a flow at both ends. False if there is none of this id."""
        number = flow.removeprefix("t")
        return number.isdecimal() and flow.isascii() and self._flows.kill(int(number))

    @property
    def _has_something_left(self) -> bool:
        return bool(self.counters.active) or self._associations.is_opening

    def abort(self) -> None:
        """Reset every flow, end the capture, and close everything but the link to the gate."""
        self.captures.end()
        self._flows.abort()
        self._echo.close()
        self._associations.close()
        self._datagrams.close()
        self._lookups.close()

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Started(generation):
                self._on_started(generation)
            case Open():
                self._flows.on_open(message)
            case Configured() if not self._configured.done():
                self._configured.set_result(None)
            case Accepted(flow):
                self._flows.on_accepted(flow, fds[0])
            case Cancel():
                self._flows.on_cancel(message)
            case Lookup():
                self._start(self._look_up(message))
            case Forward():
                self._start(self._forward(message))
            case PoolState():
                self.pool.on_state(message)
            case Dropped(counts):
                for one in counts:
                    self.counters.dropped[one.reason] += one.packets
            case _:
                close_all(fds)

    def _on_started(self, generation: int) -> None:
        """A gate has started. One that replaces another is told everything again."""
        if generation > 1 and self._settings is not None:
            self._flows.on_started()
            self._associations.close()
            self._tell(self._settings)
            self.captures.on_started()

    def _tell(self, settings: Configure) -> None:
        self._gate.send(settings, (self._datagrams.renew(),))

    def _on_datagram(self, message: Message) -> None:
        """An application has sent a datagram or a ping, or its association has expired."""
        match message:
            case Ping():
                self._echo.on_ping(message)
            case Send():
                self._associations.on_send(message)
            case Forget():
                self._associations.on_forget(message)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, question: Lookup) -> None:
        self._gate.send(await self._lookups.answer(question))

    async def _forward(self, question: Forward) -> None:
        self._gate.send(Forwarded(question.query, await self._forwarder.ask(question)))


def open_tunnel(
    gate: Link,
    uplink: Uplink,
    settings: SessionSettings,
    sockets: OuterSockets,
    report: Report | None = None,
) -> Tunnel:
    """Return a tunnel between a gate and a session, with the limits of the user.

    Raises ConfigurationError if nobody can be asked about names.
    """
    resolver = resolver_for(uplink, settings.dns, settings.dns_server)
    limits = Limits(settings.policy, settings.hosts, settings.host_loopback)
    lookups = Lookups(resolver, limits, report)
    return Tunnel(gate, Egress(uplink, limits, report), lookups, sockets)


def resolver_for(session: Uplink, dns: str, dns_server: str | None) -> FarResolver | None:
    """Return the resolver of the far end, None in mode `virtual`. Raises ConfigurationError.

    `dns` is `virtual`, `remote`, or empty for `remote` where the far end can be asked.
    """
    can_ask = dns_server is not None or session.is_overlay_server
    if dns == "virtual" or (dns == "" and not can_ask):
        return None
    if not can_ask:
        raise ConfigurationError(
            "only an overlay-vpn server resolves names; name another resolver with --dns-server"
        )
    host, port = RESOLVER if dns_server is None else (dns_server, PORT)
    resolver = FarResolver(lambda: session.open_stream(host, port), is_ours=dns_server is None)
    session.on_lost(resolver.forget)
    return resolver
