"""The composition root of `run`: a session and a namespace, for as long as one command lasts.

Theory of operation
-------------------
This process is not the command's parent, so that stopping the command with Ctrl-Z does not stop
the tunnel. The parent waits for one packet from here: either the three namespaces in which it
starts the command, or the reason why it must not. From then on it sends one packet, the exit
status, or it is gone, killed; either way whatever is left in the namespace is killed.

The session and the namespace are made at the same time, and both must be there before the command
starts: there is no moment at which it runs with another network. A session that ends is renewed
(`session/renewing.py`); where that is in vain the command goes on, with no network at all.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from shim.protocol.gate import Configure
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from vpn.client import sandbox
from vpn.client.explain import TunnelContext, asked_of
from vpn.client.flows.publication import publish
from vpn.client.session import state as states
from vpn.client.session.connector import Connector
from vpn.client.session.renewing import Uplink
from vpn.client.session.state import SessionState
from vpn.client.shim.namespace import Namespace
from vpn.client.tunnel import Tunnel, open_tunnel
from vpn.config.settings import SessionSettings
from vpn.control import runs
from vpn.control.events import Events
from vpn.control.instance import Instance
from vpn.control.messages import MAX_PROBLEM, Exited, Finished, Ready, Run, State, StateChanged
from vpn.control.peer import receive
from vpn.control.server import ControlServer
from vpn.errors import OverlayError
from vpn.policy.report import Report, encode
from vpn.transport.base import PlainSockets

_KILLED: Final = 128 + 9
_CLOSE_S: Final = 1.0


class CommandClient(Instance):
    """The client of one command, from its namespace until its report is written."""

    def __init__(
        self,
        settings: SessionSettings,
        about: Run,
        *,
        connector: Connector,
        namespace: Namespace,
        parent: Link,
        end_processes: Callable[[int], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`parent` is a link to the parent of the command (`vpn.control.messages`).

        `end_processes` kills every process in a network namespace, given as a descriptor; `say` is
        given lines for the user; `clock` tells the time of day.
        """
        self._settings = settings
        self._about = about
        self._connector = connector
        self._namespace = namespace
        self._parent = parent
        self._end_processes = end_processes
        self._say = say
        self._clock = clock
        self._state = SessionState(time.monotonic())
        self._report = Report()
        self._search: tuple[str, ...] = ()
        self._spaces = (-1, -1, -1)
        self._tunnel: Tunnel | None = None
        self.events = Events()

    @property
    def tunnel(self) -> Tunnel | None:
        """The tunnel; None until the session and the namespace are there."""
        return self._tunnel

    def describe_run(self) -> Run:
        """Return what runs, and where to."""
        return self._about

    def namespaces(self) -> tuple[int, int, int]:
        """Return the user, mount and network namespace of the command."""
        return self._spaces

    async def serve(self) -> None:
        """Serve the command until it has ended. Raises OverlayError if it must not start."""
        listener, path = runs.listen(self._about.id)
        self._give_up_without_parent()
        try:
            uplink, gate = await self._connect()
            tunnel = self._tunnel = await self._open_tunnel(uplink, gate)
            published = await publish(self._settings.publications, self._namespace)
            self._about = msgspec.structs.replace(self._about, started=self._clock())
            answering = asyncio.create_task(ControlServer(listener, self).serve())
            self._on(states.Fact.CAPTURED)
            status = await self._until_exit(uplink)
            answering.cancel()
            for server in published:
                server.close()
            await self._finish(tunnel, uplink, status)
        finally:
            path.unlink(missing_ok=True)
            listener.close()
            self._namespace.close()
            await self._connector.close()

    def _give_up_without_parent(self) -> None:
        """Cancel this task if the parent goes away before its command has started."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_reader(self._parent, self._on_parent_gone, task)

    def _on_parent_gone(self, task: asyncio.Task[None]) -> None:
        asyncio.get_running_loop().remove_reader(self._parent)
        task.cancel()

    async def _connect(self) -> tuple[Uplink, Link]:
        """Make the session and enter the namespace, at the same time. Raises OverlayError."""
        entering = asyncio.create_task(self._namespace.enter())
        try:
            session = await self._connector.connect()
        finally:
            await asyncio.wait({entering})
            if not entering.cancelled():
                entering.exception()  # of two errors one is raised, and the other is expected
        gate, self._spaces = entering.result()
        for line in sandbox.warnings(self._namespace.missing):
            self._say(f"warning: {line}")
        return Uplink(session, self._connector.connect, self._state, self._on), gate

    async def _open_tunnel(self, uplink: Uplink, gate: Link) -> Tunnel:
        tunnel = open_tunnel(gate, uplink, self._settings, PlainSockets(), self._report)
        configure = Configure(True, ())
        await tunnel.configure(configure)
        self._search = await self._search_domains(tunnel)
        context = TunnelContext(
            server=self._settings.server_text,
            asked=asked_of(self._settings.dns_server, is_asking=tunnel.resolver is not None),
            search=self._search,
        )
        tunnel.explain(uplink, configure, lambda: context)
        return tunnel

    async def _search_domains(self, tunnel: Tunnel) -> tuple[str, ...]:
        """Return the search domains for the command's resolv.conf(5).

        None where there are rules: they are about the names that are written in them, and a search
        would be for others, which are denied and reported.
        """
        if tunnel.resolver is None or self._settings.policy.has_rules:
            return ()
        return await tunnel.resolver.search_domains()

    def _on(self, event: states.Event) -> None:
        for order in self._state.on(event, time.monotonic()):
            match order:
                case states.Act.TELL_READY:
                    asyncio.get_running_loop().remove_reader(self._parent)
                    self._tell_parent(Ready(self._search), self._spaces)
                case states.Say(line):
                    self._say(line)
        state: State = "connected" if self._state.name is states.State.CONNECTED else "reconnecting"
        self.events.publish(StateChanged(state, self._state.last_error))

    def _tell_parent(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message to the parent of the command, if it is still there."""
        with suppress(LinkClosedError):
            self._parent.send(message, fds)

    async def _until_exit(self, uplink: Uplink) -> int:
        """Renew the session until the command has exited; returns its exit status."""
        keeping = asyncio.create_task(self._keep(uplink))
        try:
            message, _ = await receive(self._parent)
            assert isinstance(message, Exited)
            return message.status
        except (LinkClosedError, ViolationError):
            return _KILLED  # as its parent was: the kernel has killed the command (prctl(2))
        finally:
            keeping.cancel()

    async def _keep(self, uplink: Uplink) -> None:
        try:
            await uplink.keep()
        except OverlayError as error:
            self._say(f"{error}; the command has no network any more")

    async def _finish(self, tunnel: Tunnel, uplink: Uplink, status: int) -> None:
        """End what the command has left, let its data arrive, and tell the parent the result."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._end_processes, self._spaces[2])
        await tunnel.drain()
        tunnel.abort()
        problem = self._write_report(status)
        self._tell_parent(Finished(self._report.has_denied, problem[:MAX_PROBLEM]))
        with suppress(TimeoutError):
            await asyncio.wait_for(uplink.close(), _CLOSE_S)

    def _write_report(self, status: int) -> str:
        """Write the report where it was asked for; returns what is wrong if that fails."""
        path = self._settings.report
        if path is None:
            return ""
        document = self._report.document(
            start=self._about.started,
            end=self._clock(),
            target=self._settings.address_text,
            command=self._about.command,
            exit_status=status,
        )
        try:
            write_atomically(path, encode(document))
        except OSError as error:
            return f"cannot write the report {path}: {error.strerror}"
        return ""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole whenever it is there. Raises OSError, and leaves nothing then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
