"""The composition root of `run`: a session and a namespace, as long as one command lasts.

Theory of operation
-------------------
This process is not the command's parent, so that stopping the command with Ctrl-Z does not stop
the tunnel. The parent waits for one packet from here: either the three namespaces, with which it
starts the command, or the reason why it must not. From then on it sends one packet, the exit
status, or it is gone, killed; either way whatever is left in the namespace is ended.

The session and the namespace are made at the same time, and both must be there before the command
may start: there is no moment at which it runs with another network. A session that ends is
renewed (`session/renewing.py`); where that is in vain the command goes on, with no network at all.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from shim.protocol.gate import Configure
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from shim.protocol.namespace import CLIENT_OF_NAMESPACE
from vpn import embedded
from vpn.client import sandbox
from vpn.client.explain import Explainer, TunnelContext, asked_of
from vpn.client.flows.admission import Limits
from vpn.client.flows.egress import Egress
from vpn.client.names.far_resolver import FarResolver
from vpn.client.session.renewing import Connect, Uplink
from vpn.client.shim.namespace import Namespace
from vpn.client.tunnel import Tunnel, resolver_for
from vpn.config.forwards import Publication
from vpn.config.target import Target
from vpn.console import say
from vpn.control import runs
from vpn.control.events import Events
from vpn.control.instance import Instance
from vpn.control.messages import MAX_PROBLEM, Exited, Finished, Ready, Run, StateChanged
from vpn.control.peer import receive
from vpn.control.server import ControlServer
from vpn.errors import OverlayError
from vpn.linux import namespace_processes
from vpn.policy.report import Report, encode
from vpn.server.app import Server
from vpn.ssh.session import client as ssh
from vpn.transport import base, registry
from vpn.transport.pump import Pump

_KILLED: Final = 128 + 9


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for. Without a `target` the server is embedded."""

    id: str
    pid: int
    command: tuple[str, ...]
    target: Target | None
    login: ssh.Login | None
    dns: str
    dns_server: str | None
    datagrams: bool | None
    limits: Limits
    publications: tuple[Publication, ...]
    report: Path | None

    @property
    def server_text(self) -> str:
        """Whose session it is, where, and over what."""
        if self.target is None or self.login is None:
            return "embedded"
        return f"{self.login.user}@{self.target.address} ({self.target.transport})"


class RunInstance(Instance):
    """A run whose session and namespaces are there."""

    def __init__(self, about: Run, spaces: tuple[int, int, int], tunnel: Tunnel) -> None:
        """`spaces` are its user, mount and network namespace."""
        self.events = Events()
        self.events.publish(StateChanged("connected"))
        self._about = about
        self._spaces = spaces
        self._tunnel = tunnel

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel of the run."""
        return self._tunnel

    def describe_run(self) -> Run:
        """Return what runs, and where to."""
        return self._about

    def namespaces(self) -> tuple[int, int, int]:
        """Return the user, mount and network namespace of the run."""
        return self._spaces


async def run(settings: Settings, shim: socket.socket, parent: Link) -> None:
    """Serve a command until it ends. Raises OverlayError if it must not start."""
    namespace = Namespace(Link(shim, CLIENT_OF_NAMESPACE))
    listener, path = runs.listen(settings.id)
    server: Server | None = None
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_reader(parent, _give_up, parent, task)
    try:
        entering = asyncio.create_task(namespace.enter())
        try:
            session, server, connect = await _connect(settings)
        finally:
            await asyncio.wait({entering})
            if not entering.cancelled():
                entering.exception()  # of two failures one is told, and the other is no surprise
        gate, spaces = entering.result()
        for line in sandbox.warnings(namespace.missing):
            say(f"warning: {line}")
        report = Report()
        uplink = Uplink(session, connect, say)
        resolver = resolver_for(uplink, settings.dns, settings.dns_server)
        egress = Egress(uplink, resolver, settings.limits, report)
        core = Tunnel(gate, egress, base.PlainSockets())
        configure = Configure(True, ())
        await core.configure(configure)
        search = await _search_domains(resolver, settings)
        around = TunnelContext(
            server=settings.server_text,
            asked=asked_of(settings.dns_server, is_asking=resolver is not None),
            search=search,
        )
        core.explainer = Explainer(egress, uplink, core.pool, configure, lambda: around)
        published = await _publish(settings.publications, namespace)
        started = time.time()
        loop.remove_reader(parent)
        target = "embedded" if settings.target is None else str(settings.target.address)
        about = Run(settings.id, settings.pid, target, settings.command, started)
        control = ControlServer(listener, RunInstance(about, spaces, core))
        answering = asyncio.create_task(control.serve())
        _tell(parent, Ready(search), spaces)
        keeping = asyncio.create_task(_keep(uplink))
        status = await _exit_status(parent)
        keeping.cancel()
        answering.cancel()
        for each in published:
            each.close()
        await loop.run_in_executor(None, namespace_processes.end, spaces[2])
        await core.drain()
        core.abort()
        problem = _write_report(settings, report, started, status)
        _tell(parent, Finished(report.has_denied, problem[:MAX_PROBLEM]))
        with suppress(TimeoutError):
            await asyncio.wait_for(uplink.close(), 1.0)
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        namespace.close()
        if server is not None:
            await server.close()


def _tell(parent: Link, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send a message to the command's parent, if it is still there."""
    with suppress(LinkClosedError):
        parent.send(message, fds)


async def _exit_status(parent: Link) -> int:
    """Return the exit status of the command, once it has ended."""
    with suppress(LinkClosedError, ViolationError):
        message, _ = await receive(parent)
        assert isinstance(message, Exited)
        return message.status
    return _KILLED  # as its parent was


def _give_up(parent: Link, running: asyncio.Task[None]) -> None:
    """The parent has gone before there was anything to tell it: nobody waits for a command."""
    asyncio.get_running_loop().remove_reader(parent)
    running.cancel()


async def _connect(settings: Settings) -> tuple[ssh.Session, Server | None, Connect]:
    """Return the first session, the server if it is embedded, and what makes the next session."""
    target, login = settings.target, settings.login
    if target is None or login is None:
        session, server = await embedded.connect()
        return session, server, _connect_never
    first = await _connect_to(target, login, settings.datagrams)
    return first, None, partial(_connect_to, target, login.after(first), settings.datagrams)


async def _connect_to(target: Target, login: ssh.Login, datagrams: bool | None) -> ssh.Session:
    transport = registry.load(target.transport)
    dialing = base.Dialing(
        target.address,
        base.PlainSockets(),
        login.host_keys.check_peer,
        datagrams=datagrams,
    )
    return await ssh.connect(transport, dialing, login)


async def _search_domains(resolver: FarResolver | None, settings: Settings) -> tuple[str, ...]:
    """Return where the command's stub resolver looks for names.

    Nowhere where there are rules: they are about the names that are written in them, and a search
    would be for others, which are denied and reported.
    """
    if resolver is None or settings.limits.policy.has_rules:
        return ()
    return await resolver.search_domains()


async def _connect_never() -> ssh.Session:
    """Nothing lies between us and a server in this process: what ended it would end it again."""
    raise OverlayError("the embedded server has ended")


async def _keep(uplink: Uplink) -> None:
    """Renew the session for as long as the command runs, with or without a network."""
    try:
        await uplink.keep()
    except OverlayError as error:
        say(f"{error}; the command has no network any more")


async def _publish(
    publications: tuple[Publication, ...], namespace: Namespace
) -> list[asyncio.Server]:
    loop = asyncio.get_running_loop()

    def accepted(inner_port: int) -> asyncio.Protocol:
        pump = Pump()
        task = loop.create_task(_join(pump, namespace, inner_port))
        pump.on_done(lambda _: task.cancel())
        return pump.near

    servers = []
    for each in publications:
        try:
            factory = partial(accepted, each.inner_port)
            servers.append(await loop.create_server(factory, each.address, each.port))
        except OSError as error:
            raise OverlayError(
                f"cannot publish {each.address}:{each.port}: {error.strerror}; choose another port"
            ) from error
    return servers


async def _join(pump: Pump, namespace: Namespace, port: int) -> None:
    """Connect the other end of a published connection inside the namespace."""
    loop = asyncio.get_running_loop()
    try:
        sock = await namespace.inner_socket(4)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.create_connection(lambda: pump.far, sock=sock)
        except BaseException:
            sock.close()
            raise
    except OSError:
        pump.abort()


def _write_report(settings: Settings, report: Report, started: float, status: int) -> str:
    """Write the report where it was asked for; returns the problem if that fails."""
    if settings.report is None:
        return ""
    document = report.document(
        start=started,
        end=time.time(),
        target="embedded" if settings.target is None else str(settings.target.address),
        command=settings.command,
        exit_status=status,
    )
    temporary = settings.report.with_name(f".{settings.report.name}.{os.getpid()}")
    try:
        temporary.write_bytes(encode(document))
        temporary.replace(settings.report)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        return f"cannot write the report {settings.report}: {error.strerror}"
    return ""
