"""The composition root of `up`: a session, a gate and a monitor, until told to stop.

Theory of operation
-------------------
In this order, so that nothing is captured before it can be carried:

 1. the monitor gives the links, and marks the sockets of the tunnel;
 2. the session is made on a marked socket: reaching the server does not depend on us;
 3. the gate is told how to answer names; only now it answers at all;
 4. the routes are put in place; the client is up.

A session that ends is renewed (`session/renewing.py`). Meanwhile the gate and the routes stay as
they are: nothing falls back to the network below, what would need the session fails at once, and
the next session is made on marked sockets as the first one was.

It ends when the user says so, when the gate or the monitor is gone, or when the session cannot be
renewed. Whatever the reason, closing the link to the monitor is what takes the network down, so
being killed ends the same way. Only the kill switch takes the user's word for it, `Down`.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shim import protocol
from shim.protocol.common import Missing
from shim.protocol.gate import Configure
from shim.protocol.link import Link
from shim.protocol.monitor import CLIENT_OF_MONITOR
from vpn import console
from vpn.client import sandbox
from vpn.client.explain import Explainer, TunnelContext, asked_of
from vpn.client.flows.admission import Limits
from vpn.client.flows.egress import Egress
from vpn.client.flows.tcp import Counters
from vpn.client.session.renewing import Uplink
from vpn.client.session.server_address import ServerAddress
from vpn.client.shim.monitor import Monitor
from vpn.client.shim.resolved import ResolvedHelper
from vpn.client.tunnel import Tunnel, resolver_for
from vpn.config.routes import Routes
from vpn.config.target import Target
from vpn.control.events import Events
from vpn.control.instance import Instance
from vpn.control.messages import State, StateChanged, Status, Warned
from vpn.control.server import ControlServer
from vpn.errors import OverlayError
from vpn.ssh.session import client as ssh
from vpn.systemd.notify import READY, STOPPING, Notifier, status
from vpn.transport import base, registry


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for."""

    target: Target
    routes: Routes
    login: ssh.Login
    dns: str
    """`virtual`, `remote`, or empty for the best that the far end can do."""
    dns_server: str | None
    """The address of a resolver that the far end can reach."""
    hosts: Mapping[str, tuple[str, int]]
    """Names that have an address and port, 0 for any port; see `admission.Limits`."""
    datagrams: bool | None = None
    """Whether UDP is to be carried in datagrams; see `base.Dialing`."""
    kill_switch: bool = False
    """Whether the machine stays cut off when the tunnel is gone, until the user says otherwise."""
    lan: bool = True
    """Whether the local network is reachable beside the kill switch."""

    @property
    def login_text(self) -> str:
        """Whose session it is, where, and over what."""
        return f"{self.login.user}@{self.target.address} ({self.target.transport})"


class Client(Instance):
    """A client that is coming up, is up, or is going down."""

    def __init__(self, settings: Settings, monitor: Monitor, host_dns: ResolvedHelper) -> None:
        self._settings = settings
        self._monitor = monitor
        self._host_dns = host_dns
        self.events = Events()
        self._enter("connecting")
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._down = asyncio.Event()
        self._is_asking = False
        self._is_user_done = False
        self._is_capturing = False
        self._paused_until_s = 0.0
        self._core: Tunnel | None = None
        self._uplink: Uplink | None = None
        self._server_address = ServerAddress(monitor)
        self._login = settings.login

    def stop(self) -> None:
        """Take everything down in order; a second time, at once."""
        if self._stop.is_set():
            self._monitor.close()
        # Who gives up a first attempt has not asked to open what an earlier instance has closed.
        self._is_user_done |= self._is_capturing
        self._stop.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Come up, call `on_ready`, stay up. Raises OverlayError when it did not end by `stop`."""
        gate, listener = await self._monitor.hello()
        control = ControlServer(listener, self)
        serving = asyncio.create_task(control.serve())
        try:
            session = await self._connect_unless_stopped()
            self._login = self._login.after(session)
            uplink = self._uplink = Uplink(session, self._connect, self._say)
            try:
                core = await self._capture(uplink, gate)
                self._enter("connected")
                on_ready()
                await self._stay_up(uplink, core)
            finally:
                self._enter("closing")
                if self._core is not None:
                    self._core.abort()
                with suppress(TimeoutError):
                    await asyncio.wait_for(uplink.close(), 2.0)
        finally:
            self._host_dns.close()
            if self._is_user_done:
                self._monitor.down()
            else:
                self._monitor.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._monitor.closed), 5.0)
            self._down.set()
            serving.cancel()
            await control.finish()

    @property
    def tunnel(self) -> Tunnel | None:
        """The tunnel; None until there is a session."""
        return self._core

    def status(self) -> Status:
        """Return what is going on."""
        settings = self._settings
        counters = self._core.counters if self._core is not None else Counters()
        uplink = self._uplink
        is_lost = self._state == "connected" and uplink is not None and not uplink.is_up
        routes = (
            *(("everything",) if settings.routes.everything else ()),
            *map(str, settings.routes.prefixes),
            *settings.routes.suffixes,
        )
        return Status(
            state="reconnecting" if is_lost else self._state,
            target=f"{settings.login.user}@{settings.target.address}",
            transport=settings.target.transport,
            device=protocol.DEVICE,
            dns="remote" if self._is_asking else "virtual",
            routes=routes,
            pid=os.getpid(),
            uptime_s=int(time.monotonic() - self._started),
            attempts=uplink.attempts if uplink is not None else 0,
            retry_in_s=uplink.retry_in_s if uplink is not None else 0,
            last_error=uplink.last_error if uplink is not None else "",
            flows_active=counters.active,
            flows_opened=counters.opened,
            flows_refused=counters.refused,
            bytes_up=counters.bytes_up,
            bytes_down=counters.bytes_down,
            dropped={str(reason): packets for reason, packets in counters.dropped.items()},
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            paused_s=self._paused_s,
            warnings=self._warnings,
        )

    @property
    def _warnings(self) -> tuple[str, ...]:
        return (*sandbox.warnings(self._monitor.missing), *self._host_dns.warnings)

    def _surroundings(self) -> TunnelContext:
        settings = self._settings
        return TunnelContext(
            server=settings.login_text,
            server_addresses=self._server_address.addresses,
            asked=asked_of(settings.dns_server, is_asking=self._is_asking),
            is_captured=settings.routes.names(settings.hosts) is not None,
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            paused_s=self._paused_s,
            resolved=self._host_dns.told.resolved.outcome.value,
            warnings=self._host_dns.warnings,
        )

    def _enter(self, state: State) -> None:
        self._state = state
        self.events.publish(StateChanged(state))

    def _say(self, line: str) -> None:
        """Say that the session was lost, or is there again."""
        say(line)
        status = self.status()
        self.events.publish(StateChanged(status.state, status.last_error))

    @property
    def _paused_s(self) -> int:
        return max(0, math.ceil(self._paused_until_s - time.monotonic()))

    async def _connect(self) -> ssh.Session:
        target = self._settings.target
        transport = registry.load(target.transport)
        dialing = base.Dialing(
            target.address,
            self._monitor,
            self._login.host_keys.check_peer,
            resolve=self._server_address.resolve,
            datagrams=self._settings.datagrams,
        )
        return await ssh.connect(transport, dialing, self._login)

    async def _connect_unless_stopped(self) -> ssh.Session:
        connecting = asyncio.create_task(self._connect())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            raise OverlayError("stopped before the session was there")
        return connecting.result()

    async def _capture(self, uplink: Uplink, gate: Link) -> Tunnel:
        settings = self._settings
        resolver = resolver_for(uplink, settings.dns, settings.dns_server)
        self._is_asking = resolver is not None
        egress = Egress(uplink, resolver, Limits(hosts=settings.hosts))
        core = self._core = Tunnel(gate, egress, self._monitor)
        names = settings.routes.names(settings.hosts)
        # Only the client knows what is static.
        configure = Configure(self._is_asking or bool(settings.hosts), names or ())
        core.explainer = Explainer(egress, uplink, core.pool, configure, self._surroundings)
        await core.configure(configure)
        await self._monitor.capture(
            everything=settings.routes.everything,
            names=names is not None,
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            prefixes=settings.routes.prefixes,
        )
        self._is_capturing = True
        await self._host_dns.announce()
        for line in self._warnings:
            self.events.publish(Warned(line))
        return core

    async def _stay_up(self, uplink: Uplink, core: Tunnel) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        keeping = asyncio.create_task(uplink.keep())
        ends: tuple[asyncio.Future[Any], ...] = (
            stopping,
            keeping,
            core.closed,
            self._monitor.closed,
        )
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            keeping.cancel()
            await asyncio.wait({keeping})
        if self._stop.is_set():
            return
        if not keeping.cancelled():
            keeping.result()
        raise OverlayError("the privileged part has ended; run 'overlay-vpn up' again")

    async def pause(self, seconds: int) -> None:
        """Let everything pass outside the tunnel for so long. Raises OverlayError."""
        if not self._is_capturing:
            raise OverlayError("there is nothing to pause before the tunnel is up")
        await self._monitor.pause(seconds)
        self._host_dns.pause(seconds)
        self._paused_until_s = time.monotonic() + seconds

    async def take_down(self) -> None:
        """Take everything down, and return when that is done."""
        self._is_user_done = True
        self.stop()
        await self._down.wait()


async def run(
    settings: Settings,
    link: socket.socket,
    host_dns: socket.socket | None,
    missing: tuple[Missing, ...],
    on_ready: Callable[[], None],
) -> None:
    """Run a client over a link to the monitor until SIGINT, SIGTERM or `down`.

    `host_dns` is a link to what tells the resolver of this machine, if it has a message bus;
    `missing` is what this process does without. Raises OverlayError.
    """
    monitor = Monitor(Link(link, CLIENT_OF_MONITOR))
    monitor.missing = missing
    client = Client(settings, monitor, ResolvedHelper(host_dns))
    loop = asyncio.get_running_loop()
    notifier = Notifier()
    notifier.keep_alive()

    def stop() -> None:
        notifier.send(STOPPING)
        client.stop()

    def ready() -> None:
        notifier.send(READY, status("connected"))
        on_ready()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await client.run(ready)


def say(line: str) -> None:
    """Say what happened: to the user or to the log, and to the service manager."""
    console.say(line)
    Notifier().send(status(line))
