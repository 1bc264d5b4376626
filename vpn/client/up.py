"""The composition root of `up`: the steps from a command line to a connected tunnel, and back.

Theory of operation
-------------------
In this order, so that nothing is captured before it can be carried:

 1. start the shim: as root, or by the service of systemd;
 2. become the user whose keys are used, without any capability;
 3. confine this process (`sandbox.py`);
 4. connect: the session is made on a socket that the monitor has marked, so that reaching the
    server does not depend on the tunnel;
 5. configure the gate; only from now on it answers names;
 6. capture: the monitor puts the routes in place;
 7. tell whoever has started this process that the tunnel is usable.

What happens from then on is the business of the state machine (`session/state.py`): `Client`
reports events to it and carries out its orders. A session that ends is renewed
(`session/renewing.py`). Meanwhile the gate and the routes stay as they are: nothing falls back to
the network below, what would need the session fails at once, and the next session is made on
marked sockets as the first one was.

Whatever the reason for the end, closing the link to the monitor is what takes the network down, so
being killed ends the same way. Only the kill switch needs a message to be lifted, `Down`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from shim import protocol
from shim.protocol.common import Missing
from shim.protocol.gate import Configure
from shim.protocol.link import Link
from shim.protocol.monitor import CLIENT_OF_MONITOR
from vpn import console
from vpn.client import sandbox
from vpn.client.session import state as states
from vpn.client.session.state import SessionState, State
from vpn.client.shim import start
from vpn.config.settings import SessionSettings
from vpn.control import messages
from vpn.control.events import Events
from vpn.control.instance import Instance
from vpn.control.messages import StateChanged, Status, Warned
from vpn.errors import OverlayError
from vpn.linux import privileges
from vpn.linux.privileges import LocalUser
from vpn.systemd.notify import READY, STOPPING, Notifier, status

if TYPE_CHECKING:
    from vpn.client.explain import TunnelContext
    from vpn.client.flows.tcp import Counters
    from vpn.client.session.connector import Connector
    from vpn.client.session.renewing import Uplink
    from vpn.client.shim.monitor import Monitor
    from vpn.client.shim.resolved import ResolvedHelper
    from vpn.client.tunnel import Tunnel
    from vpn.control.server import ControlServer
    from vpn.ssh.session.client import Credentials

CLOSE_S: Final = 2.0
"""How long the session has to end in order."""
TAKE_DOWN_S: Final = 5.0
"""How long the monitor is waited for; it goes on without us."""

_SHOWN: Final[Mapping[State, messages.State]] = {
    State.CONNECTING: "connecting",
    State.CONNECTED: "connected",
    State.RECONNECTING: "reconnecting",
    State.CLOSING: "closing",
    State.DOWN: "down",
    State.BLOCKED: "blocked",
    State.FAILED: "down",
}

Told = states.Say | states.Act
"""Orders to tell somebody something."""

T = TypeVar("T")


class Starter(Protocol):
    """Whoever has started this client, and waits until the tunnel is usable."""

    def prepare(self) -> None:
        """Open what `ready` needs: it is called before the client confines itself."""
        ...

    def ready(self) -> None:
        """The tunnel is usable."""
        ...


def up(settings: SessionSettings, user: LocalUser, starter: Starter) -> None:
    """Route the traffic of this machine through a server until stopped. Raises OverlayError."""
    with start.shim(settings.captured_names) as shim:
        import uvloop

        from vpn.client import tunnel  # noqa: F401  the slow imports, while the shim starts
        from vpn.client.session.connector import credentials_for

        privileges.become(user)
        privileges.allow_many_files()
        os.chdir("/")
        login = credentials_for(settings)
        starter.prepare()
        missing = sandbox.confine(login)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, login, shim, missing, starter.ready))


async def _serve(
    settings: SessionSettings,
    login: Credentials,
    shim: start.Shim,
    missing: tuple[Missing, ...],
    on_ready: Callable[[], None],
) -> None:
    """Put a client together and run it until SIGINT, SIGTERM or `down`. Raises OverlayError."""
    from vpn.client.session.connector import ServerConnector
    from vpn.client.session.server_address import ServerAddress
    from vpn.client.shim.monitor import Monitor
    from vpn.client.shim.resolved import ResolvedHelper
    from vpn.control.server import ControlServer

    notifier = Notifier()
    notifier.keep_alive()
    monitor = Monitor(Link(shim.monitor, CLIENT_OF_MONITOR))
    monitor.missing = missing
    address = ServerAddress(monitor)
    client = Client(
        settings,
        monitor=monitor,
        resolved=ResolvedHelper(shim.resolved),
        connector=ServerConnector(login, settings, monitor, resolve=address.resolve),
        server_addresses=lambda: address.addresses,
        control=ControlServer,
        tell=partial(_tell, notifier, on_ready),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, client.stop)
    await client.serve()


def _tell(notifier: Notifier, on_ready: Callable[[], None], order: Told) -> None:
    """Tell the starter, the service manager, and the user or the log."""
    match order:
        case states.Act.TELL_READY:
            notifier.send(READY, status("connected"))
            on_ready()
        case states.Act.TELL_STOPPING:
            notifier.send(STOPPING)
        case states.Say(line):
            console.say(line)
            notifier.send(status(line))


class Client(Instance):
    """A client from its first message to the monitor until the monitor has ended."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        monitor: Monitor,
        resolved: ResolvedHelper,
        connector: Connector,
        server_addresses: Callable[[], frozenset[str]],
        control: Callable[[socket.socket, Instance], ControlServer],
        tell: Callable[[Told], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`control` makes the control server; `tell` is given what others are to be told."""
        self._clock = clock
        self._state = SessionState(clock(), kill_switch=settings.kill_switch)
        self._settings = settings
        self._monitor = monitor
        self._resolved = resolved
        self._connector = connector
        self._server_addresses = server_addresses
        self._tell = tell
        self._control = control
        self.events = Events()
        self._uplink: Uplink | None = None
        self._is_closing = asyncio.Event()
        self._is_down = asyncio.Event()
        self._tunnel: Tunnel | None = None

    @property
    def state(self) -> SessionState:
        """The state machine."""
        return self._state

    @property
    def tunnel(self) -> Tunnel | None:
        """The tunnel; None until there is a session."""
        return self._tunnel

    def stop(self) -> None:
        """Take everything down in order; a second time, at once."""
        self._on(states.Fact.SIGNALLED)

    async def take_down(self) -> None:
        """Take everything down, and return when that is done."""
        self._on(states.Fact.DOWN_REQUESTED)
        await self._is_down.wait()

    async def pause(self, seconds: int) -> None:
        """Let traffic bypass the tunnel for so long; 0 ends that. Raises OverlayError."""
        if not self._state.is_captured:
            raise OverlayError("there is nothing to pause before the tunnel is up")
        await self._monitor.pause(seconds)
        self._resolved.pause(seconds)
        self._on(states.Paused(seconds))

    async def serve(self) -> None:
        """Come up and stay up until stopped. Raises OverlayError if that was not the user's wish.

        A second error is not raised: the first one is the reason.
        """
        gate, listener = await self._monitor.hello()
        control = self._control(listener, self)
        serving = asyncio.create_task(control.serve())
        try:
            await self._come_up_and_stay(gate)
        except OverlayError as error:
            self._on(states.Failed(error))
        finally:
            await self._close_session()
            self._resolved.close()
            self._on(states.Fact.SESSION_CLOSED)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._monitor.closed), TAKE_DOWN_S)
            self._is_down.set()
            serving.cancel()
            await control.finish()
            self._on(states.Fact.TAKEN_DOWN)
        if self._state.failure is not None:
            raise self._state.failure

    def status(self) -> Status:
        """Return the state of the tunnel."""
        settings, state, now = self._settings, self._state, self._clock()
        target, counters = settings.target, None if self.tunnel is None else self.tunnel.counters
        assert target is not None
        return Status(
            state=_SHOWN[state.name],
            target=f"{target.user}@{target.address}",
            transport=target.transport,
            device=protocol.DEVICE,
            dns="remote" if self._asks_far_end else "virtual",
            routes=settings.routes.texts,
            pid=os.getpid(),
            uptime_s=state.uptime_s(now),
            attempts=state.attempts,
            retry_in_s=state.retry_in_s(now),
            last_error=state.last_error,
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            paused_s=state.paused_s(now),
            warnings=self._warnings,
            **({} if counters is None else _counts(counters)),
        )

    async def _come_up_and_stay(self, gate: Link) -> None:
        uplink = self._uplink = await self._connect()
        tunnel = self._tunnel = self._open_tunnel(gate, uplink)
        await self._configure(tunnel, uplink)
        await self._capture()
        for line in self._warnings:
            self.events.publish(Warned(line))
        self._on(states.Fact.CAPTURED)
        await self._stay_up(uplink, tunnel)

    async def _connect(self) -> Uplink:
        """Make the first session. Raises OverlayError, also if stopped meanwhile."""
        from vpn.client.session.renewing import Uplink

        session = await self._unless_closing(self._connector.connect())
        return Uplink(session, self._connector.connect, self._state, self._on)

    async def _unless_closing(self, step: Coroutine[Any, Any, T]) -> T:
        """Return the result of a step. Raises OverlayError if stopped before it was done."""
        doing = asyncio.create_task(step)
        closing = asyncio.create_task(self._is_closing.wait())
        await asyncio.wait({doing, closing}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if not doing.done():
            doing.cancel()
            raise OverlayError("stopped")
        return doing.result()

    def _open_tunnel(self, gate: Link, uplink: Uplink) -> Tunnel:
        from vpn.client.tunnel import open_tunnel

        return open_tunnel(gate, uplink, self._settings, self._monitor)

    async def _configure(self, tunnel: Tunnel, uplink: Uplink) -> None:
        # Names with a static address are known to the client alone: the gate has to ask for them.
        asks = self._asks_far_end or bool(self._settings.hosts)
        configure = Configure(asks, self._settings.captured_names or ())
        tunnel.explain(uplink, configure, self._context)
        await self._unless_closing(tunnel.configure(configure))

    async def _capture(self) -> None:
        settings = self._settings
        await self._monitor.capture(
            everything=settings.routes.everything,
            names=settings.captured_names is not None,
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            prefixes=settings.routes.prefixes,
        )
        self._on(states.Fact.ROUTED)
        await self._resolved.announce()

    async def _stay_up(self, uplink: Uplink, tunnel: Tunnel) -> None:
        """Renew the session until closing, or until a helper has ended. Raises OverlayError."""
        closing = asyncio.create_task(self._is_closing.wait())
        keeping = asyncio.create_task(uplink.keep())
        ends: tuple[asyncio.Future[Any], ...] = (
            closing,
            keeping,
            tunnel.closed,
            self._monitor.closed,
        )
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            keeping.cancel()
            await asyncio.wait({keeping})
        if not keeping.cancelled():
            keeping.result()
        self._on(states.Fact.HELPER_ENDED)

    async def _close_session(self) -> None:
        if self.tunnel is not None:
            self.tunnel.abort()
        if self._uplink is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._uplink.close(), CLOSE_S)
        await self._connector.close()

    def _on(self, event: states.Event) -> None:
        for order in self._state.on(event, self._clock()):
            match order:
                case states.Act.CLOSE_SESSION:
                    self._is_closing.set()
                case states.Act.TAKE_DOWN:
                    self._monitor.close()
                case states.Act.TAKE_DOWN_AND_LIFT:
                    self._monitor.down()
                case _:
                    self._tell(order)
        self.events.publish(StateChanged(_SHOWN[self._state.name], self._state.last_error))

    @property
    def _warnings(self) -> tuple[str, ...]:
        return (*sandbox.warnings(self._monitor.missing), *self._resolved.warnings)

    @property
    def _asks_far_end(self) -> bool:
        return self.tunnel is not None and self.tunnel.resolver is not None

    def _context(self) -> TunnelContext:
        from vpn.client.explain import TunnelContext, asked_of

        settings = self._settings
        return TunnelContext(
            server=settings.server_text,
            server_addresses=self._server_addresses(),
            asked=asked_of(settings.dns_server, is_asking=self._asks_far_end),
            is_captured=settings.captured_names is not None,
            kill_switch=settings.kill_switch,
            lan=settings.lan,
            paused_s=self._state.paused_s(self._clock()),
            resolved=self._resolved.told.resolved.outcome.value,
            warnings=self._resolved.warnings,
        )


def _counts(counters: Counters) -> dict[str, Any]:
    return {
        "flows_active": counters.active,
        "flows_opened": counters.opened,
        "flows_refused": counters.refused,
        "bytes_up": counters.bytes_up,
        "bytes_down": counters.bytes_down,
        "dropped": {str(reason): packets for reason, packets in counters.dropped.items()},
    }
