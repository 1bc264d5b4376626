"""Makes the worlds of the scenarios of what is there today. Only this file knows how it is built.

What is real: the client of `up` and what answers for a run, on their sockets, and what they
explain with; the command line, which asks them from the thread of the test. What is not: the
monitor, the gate, the session and its far end, the kernel's routes, the resolvers that `dns query`
asks, the clocks.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import importlib
import os
import shlex
import signal
import socket
import struct
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dnslib
import msgspec
import pytest
from dialogues import until
from golden_scenarios import (
    ANSWERS,
    KERNELS,
    OUTSIDE,
    SILENT,
    UNREACHABLE,
    Packet,
    Run,
    Tunnel,
    World,
)

from dns import framing
from shim.protocol import MARK, paths
from shim.protocol.common import Missing
from shim.protocol.gate import (
    CLIENT_OF_GATE,
    GATE,
    Configure,
    Configured,
    Copy,
    DropReason,
    PoolState,
    PoolWanted,
)
from shim.protocol.handover import adopt, pair
from shim.protocol.link import Link, LinkClosedError, Message
from shim.protocol.resolved import Answer, Outcome, Told
from shim.protocol.tap import TAP, Copied, Tapped
from vpn.cli import main
from vpn.client import run
from vpn.client import tunnel as client_tunnel
from vpn.client import up as app
from vpn.client.explain import TunnelContext, asked_of
from vpn.client.names import pool_query
from vpn.client.session import renewing
from vpn.client.session.renewing import Uplink
from vpn.client.session.state import Act
from vpn.client.shim.monitor import Monitor
from vpn.client.shim.namespace import Namespace
from vpn.client.shim.resolved import ResolvedHelper
from vpn.client.tunnel import open_tunnel
from vpn.config.forwards import parse_host
from vpn.config.routes import parse_routes
from vpn.config.settings import DnsMode, SessionSettings
from vpn.config.target import parse_target
from vpn.control import dns_query, messages, peer
from vpn.control import runs as runtime
from vpn.control.messages import FlowStatus
from vpn.control.server import ControlServer
from vpn.errors import OverlayError
from vpn.linux import rtnetlink
from vpn.linux.routing import Packet as Routed
from vpn.linux.routing import Prefix, Route, Rule
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.ssh.session.client import Session
from vpn.transport import base

PID = 4711
ANSWER_S = 0.012
SOON_S = 0.05
MARKER = Packet(hex="4500001800090000402ff292c6120002c000020700000800", time_ns=0)
VERBS = ("capture", "dns", "down", "flows", "list", "pause", "route", "status")


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return 5000.0 + self.passed_s

    def time(self) -> float:
        return 1_790_000_000.0 + self.passed_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Served:
    """A world in which commands can be given."""

    def __init__(self, clock: Clock, directory: Path, gates: list[Gate]) -> None:
        self._clock = clock
        self._directory = directory
        self._gates = gates

    def invoke(self, line: str) -> tuple[int, bytes | None]:
        """Return the exit status of a command line, and what is in the file that it has written.

        Of a file its mode comes first.
        """
        while any(gate.is_copying for gate in self._gates):  # for the command before
            time.sleep(0.001)
        path = self._directory / "file.pcapng"
        with warnings.catch_warnings():
            # A command is a process of its own, with which ends what it has left open.
            warnings.simplefilter("ignore", ResourceWarning)
            status = main.run([str(path) if word == "FILE" else word for word in shlex.split(line)])
        if not path.exists():
            return status, None
        written = f"{path.stat().st_mode & 0o7777:o}\n".encode() + path.read_bytes()
        path.unlink()
        return status, written

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._clock.passed_s += seconds


@contextmanager
def served(world: World, directory: Path, patch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serve a world below a directory of a short name, until the end of the block."""
    clock = Clock()
    with ExitStack() as stack:
        stack.callback(time.tzset)
        patch = stack.enter_context(patch.context())
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.getsignal(number))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _replace_the_machine(world, directory, clock, patch)
        stack.enter_context(_resolver(clock, patch))
        _leave(world, stack)
        gates = stack.enter_context(_serving(world, clock))
        yield Served(clock, directory, gates)


# What is around the tunnel.


def _replace_the_machine(
    world: World, directory: Path, clock: Clock, patch: pytest.MonkeyPatch
) -> None:
    for verb in VERBS:
        importlib.import_module(f"vpn.cli.{verb}")
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("vpn", "dns") and getattr(module, "time", None) is time:
            patch.setattr(module, "time", clock)
    patch.setenv("COLUMNS", "80")
    patch.setenv("TZ", "UTC")
    time.tzset()
    patch.setattr(paths, "RUN_DIRECTORY", str(directory))
    Path(paths.state_directory()).mkdir()
    patch.setenv("XDG_RUNTIME_DIR", str(directory))
    patch.setattr(app, "os", SimpleNamespace(getpid=lambda: PID))
    patch.setattr(renewing, "Changes", lambda on_change: SimpleNamespace(close=lambda: None))
    patch.setattr(dns_query, "server_of", lambda: world.resolver)
    if world.resolver == SILENT:
        patch.setattr(dns_query, "TIMEOUT_S", SOON_S)
    # The network of a run is that of the test.
    patch.setattr(runtime, "enter", lambda space, kind: os.close(space))
    if world.is_strangers:
        patch.setattr(peer, "uid_of", lambda sock: 4242)
    if world.left == "silent":
        patch.setattr(messages, "TIMEOUT_S", SOON_S)
    patch.setattr(pool_query, "TIMEOUT_S", SOON_S if _is_gate_silent(world) else 30.0)
    kernel = KERNELS[world.kernel]
    patch.setattr(rtnetlink, "route_of", partial(_route_of, kernel))
    patch.setattr(rtnetlink, "rules", partial(_rules, kernel))


def _is_gate_silent(world: World) -> bool:
    return world.up is not None and world.up.is_gate_silent


def _route_of(kernel: dict[str, tuple[str, ...]], packet: Routed) -> Route:
    for line in kernel["marked" if packet.mark == MARK else "routes"]:
        prefix, *words = line.split()
        said = dict(word.split("=", 1) for word in words)
        is_for_port = "port" not in said or int(said["port"]) == packet.port
        if ip_address(packet.address) not in ip_network(prefix) or not is_for_port:
            continue
        if "error" in said:
            number = getattr(errno, said["error"])
            raise OSError(number, os.strerror(number))
        address, _, bits = said.get("to", prefix).partition("/")
        return Route(
            kind=said.get("kind", "unicast"),
            table=int(said["table"]),
            prefix=Prefix(address, int(bits)),
            device=said["device"],
            gateway=said.get("gateway", ""),
            source=said.get("source", ""),
        )
    raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def _rules(kernel: dict[str, tuple[dict[str, Any], ...]], family: int) -> list[Rule]:
    found = []
    for said in kernel["rules"]:
        prefixes = {
            name: Prefix((parts := said[name].partition("/"))[0], int(parts[2]))
            for name in ("source", "destination")
            if name in said
        }
        if any(ip_address(one.address).version != family for one in prefixes.values()):
            continue
        first, last = said.get("ports", (0, -1))
        found.append(Rule(**{**said, **prefixes, "ports": range(first, last + 1)}))
    return found


@contextmanager
def _resolver(clock: Clock, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer port 53 of every address, and have names that have nothing to do with the tunnel."""
    ask_really = socket.getaddrinfo
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as over_udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed,
    ):
        for sock, port in ((over_udp, listener.getsockname()[1]), (silent, 0), (closed, 0)):
            sock.bind(("127.0.0.1", port))
        ports = {SILENT: silent.getsockname()[1], UNREACHABLE: closed.getsockname()[1]}
        closed.close()

        def ask(host: Any, service: Any, *rest: Any, **more: Any) -> Any:
            if service == 53:
                where = ("127.0.0.1", ports.get(host, over_udp.getsockname()[1]))
                return [(socket.AF_INET, 0, 0, "", where)]
            if host in OUTSIDE:
                return [(None, None, 0, "", (one, 0)) for one in OUTSIDE[host]]
            with suppress(ValueError):
                ip_address(host)
                return ask_really(host, service, *rest, **more)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        patch.setattr(socket, "getaddrinfo", ask)
        threads = [
            threading.Thread(target=_answer_datagrams, args=(over_udp, clock)),
            threading.Thread(target=_answer_connections, args=(listener, clock)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            over_udp.sendto(b"", over_udp.getsockname())
            for thread in threads:
                thread.join()


def _answer_datagrams(sock: socket.socket, clock: Clock) -> None:
    while True:
        query, where = sock.recvfrom(4096)
        if not query:
            return
        clock.passed_s += ANSWER_S
        sock.sendto(_reply(query, _said(query)), where)


def _answer_connections(listener: socket.socket, clock: Clock) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock:
            query = sock.recv(4096)[2:]
            said = _said(query).get("over")
            if said is not None:
                clock.passed_s += ANSWER_S
                sock.sendall(framing.frame(_reply(query, said)))


def _said(query: bytes) -> dict[str, Any]:
    question = dnslib.DNSRecord.parse(query).q
    rtype = {65: "HTTPS", 65280: "TYPE65280"}.get(question.qtype) or dnslib.QTYPE[question.qtype]
    return ANSWERS[f"{str(question.qname).rstrip('.')} {rtype}"]


def _reply(query: bytes, said: dict[str, Any]) -> bytes:
    reply = dnslib.DNSRecord.parse(query).reply()
    reply.header.rcode = said.get("rcode", 0)
    reply.header.tc = int(said.get("is_truncated", False))
    for line in said.get("answers", ()):
        reply.add_answer(*_records(line))
    for name, ttl_s, rtype, data in said.get("raw", ()):
        reply.add_answer(dnslib.RR(name, rtype, 1, ttl_s, dnslib.RD(bytes.fromhex(data))))
    for line in said.get("authority", ()):
        reply.add_auth(*_records(line))
    if "why" in said:
        option = dnslib.EDNSOption(15, struct.pack("!H", 22) + said["why"].encode())
        reply.add_ar(dnslib.EDNS0(opts=[option]))
    return bytes(reply.pack())[: said.get("bytes")]


def _records(line: str) -> list[dnslib.RR]:
    """Return the records of a line, in which every name is absolute."""
    owner, ttl_s, *rest = line.split(" ", 2)
    found: list[dnslib.RR] = dnslib.RR.fromZone(f"{owner}. {ttl_s} IN {rest[0]}")
    return found


# What is there in place of a client.


def _leave(world: World, stack: ExitStack) -> None:
    for name in world.killed_runs:
        listener, _ = runtime.listen(name)
        listener.close()
    state = Path(paths.state_directory())
    if world.left == "blocked":
        (state / paths.JOURNAL).write_text('{"guard":"overlay-vpn"}\n')
        (state / paths.LOCK).touch()
    elif world.left:
        listener = _listener()
        if world.left == "gone":
            thread = threading.Thread(target=_hang_up, args=(listener,))
            thread.start()
            stack.callback(thread.join)
        stack.callback(listener.close)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)


def _hang_up(listener: socket.socket) -> None:
    """Hear each question, and say nothing."""
    with suppress(OSError):
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{paths.state_directory()}/{paths.CONTROL}")
    listener.listen(16)
    return listener


# The clients.


@contextmanager
def _serving(world: World, clock: Clock) -> Iterator[list[Gate]]:
    """Have all clients of a world on an event loop of their own."""
    is_ready = threading.Event()
    failures: list[BaseException] = []
    stop: list[Callable[[], object]] = []
    gates: list[Gate] = []

    async def act() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            ready = []
            clients: list[Callable[..., Coroutine[Any, Any, None]]] = []
            if world.up is not None:
                clients.append(partial(_up, world.up))
            clients += [partial(_run, one) for one in world.runs]
            for client in clients:
                ready.append(loop.create_future())
                tasks.create_task(client(clock, ready[-1], over))
            gates.extend(await asyncio.gather(*ready))
            stop.append(lambda: loop.call_soon_threadsafe(over.set))
            is_ready.set()
            await over.wait()

    def work() -> None:
        try:
            asyncio.run(act())
        except BaseException as error:
            failures.append(error)
            is_ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        is_ready.wait()
        if not failures:
            yield gates
    finally:
        for each in stop:
            each()
        thread.join()
    for failure in failures:
        raise failure


class FarEnd:
    """A session, and what the far end says of names."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.is_overlay_server = tunnel.is_our_server
        self.has_datagrams = True
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_closing = asyncio.Event()
        self.may_close = asyncio.Event()
        if tunnel.state != "closing":
            self.may_close.set()
        self._far = tunnel.far
        self._tasks: list[asyncio.Task[None]] = []

    def hurry(self) -> None:
        """There is nothing to wait for."""

    async def close(self) -> None:
        self.is_closing.set()
        for task in self._tasks:
            task.cancel()
        await self.may_close.wait()

    async def open_stream(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        streams = await asyncio.open_connection(sock=theirs)
        self._tasks.append(asyncio.create_task(self._answer(*streams)))
        return await asyncio.open_connection(sock=ours)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2))
                query = await reader.readexactly(length)
                writer.write(framing.frame(self._reply(query)))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def _reply(self, query: bytes) -> bytes:
        question = dnslib.DNSRecord.parse(query).q
        known = self._far.get(str(question.qname).rstrip(".").lower())
        if known is None:
            return _reply(query, {"rcode": 3})
        if known == "SERVFAIL":
            return _reply(query, {"rcode": 2})
        rtype = dnslib.QTYPE[question.qtype]
        return _reply(query, {"answers": [one for one in known if one.split()[2] == rtype]})


class Gate:
    """Answers what a client asks its gate, and copies packets to who wants them."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.link, ours = pair(CLIENT_OF_GATE, GATE)
        self.core: client_tunnel.Tunnel | None = None
        self._held: list[int] = []
        self._taps: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []
        # Not `AsyncLink`: the gate is a process of its own, and this its end.
        self._ours = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours.fileno())
        for task in self._tasks:
            task.cancel()
        for each in (self._ours, self.link, *self._taps):
            each.close()
        for fd in self._held:
            os.close(fd)

    @property
    def is_copying(self) -> bool:
        """Whether a capture that a command has begun is not yet over."""
        captures = None if self.core is None else self.core.captures
        is_going_on = captures is not None and captures.is_active
        return is_going_on and not self.tunnel.is_captured_already

    def _on_readable(self) -> None:
        received = self._ours.receive()
        assert received is not None
        match received:
            case Configure(), fds:
                self._held += fds
                self._ours.send(Configured())
            case PoolWanted() as wanted, _:
                if not self.tunnel.is_gate_silent:
                    self._ours.send(self._state(wanted))
            case Copy(), fds:
                self._taps.append(adopt(fds[0], TAP))
                self._tasks.append(asyncio.create_task(self._copy(self._taps[-1])))

    def _state(self, wanted: PoolWanted) -> PoolState:
        name, virtual, assigned = wanted.host, self.tunnel.virtual, self.tunnel.assigned
        with suppress(ValueError):
            address = str(ip_address(wanted.host))
            name = next((one for one in assigned if address in virtual[one]), "")
        addresses = tuple(ip_address(one).packed for one in virtual.get(name, ()))
        name = name if name in virtual else ""
        counts = self.tunnel.pool
        return PoolState(wanted.query, *counts, name, addresses, name in assigned)

    async def _copy(self, tap: Link) -> None:
        sent: list[Message] = [Tapped(), *map(_copied, self.tunnel.packets)]
        after = self.tunnel.after_packets
        if after == "interrupt":
            sent.append(_copied(MARKER))
        try:
            for message in sent:
                await until(partial(tap.send, message))
            if after == "interrupt":
                # Once who reads has come to the marker, which it does not want; and is still there.
                await until(lambda: not any(fcntl.ioctl(tap.fileno(), termios.TIOCOUTQ, bytes(4))))
                tap.send(sent[-1])
                signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
        except LinkClosedError:  # who reads has seen enough
            return
        if after == "end" and self.core is not None:
            # What has been sent is still read.
            tap.close()
            self.core.captures.end()


def _copied(packet: Packet) -> Copied:
    data = bytes.fromhex(packet.hex)
    return Copied(
        packet.time_ns,
        packet.is_outgoing,
        packet.dropped,
        packet.length or len(data),
        packet.name,
        data,
    )


class Machine:
    """A monitor that has nothing to do."""

    def __init__(self, tunnel: Tunnel, gate: Gate) -> None:
        self.missing = tuple(map(Missing, tunnel.missing))
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listener = _listener()
        self.is_slow = tunnel.state == "closing"
        self._gate = gate

    async def hello(self) -> tuple[Link, socket.socket]:
        return self._gate.link, self.listener

    async def capture(self, **what: object) -> None:
        """Capture nothing."""

    async def pause(self, seconds: int) -> None:
        """Pause nothing."""

    def down(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.is_slow and not self.closed.done():
            self.closed.set_result(None)


class OneSession:
    """A connector whose session is a far end of ours, once; without one it tries for ever."""

    def __init__(self, far_end: FarEnd | None) -> None:
        self._far_end = far_end

    async def connect(self) -> Session:
        if self._far_end is None:
            await asyncio.Event().wait()
        found, self._far_end = self._far_end, None
        return cast(Session, found)

    async def close(self) -> None:
        """Leave nothing."""


async def _up(
    tunnel: Tunnel, clock: Clock, ready: asyncio.Future[Gate], over: asyncio.Event
) -> None:
    target = parse_target(tunnel.target)
    settings = SessionSettings(
        target=target,
        routes=parse_routes(tunnel.routes),
        dns=cast(DnsMode, tunnel.dns),
        dns_server=tunnel.dns_server,
        hosts=dict(map(parse_host, tunnel.hosts)),
        kill_switch=tunnel.kill_switch,
        lan=tunnel.lan,
    )
    gate, host_dns = Gate(tunnel), ResolvedHelper(None)
    machine = Machine(tunnel, gate)
    host_dns.told = Told(
        *(Answer(Outcome(word), error) for word, error in (tunnel.resolved, tunnel.network_manager))
    )
    far_end = FarEnd(tunnel)
    is_up = asyncio.Event()
    client = app.Client(
        settings,
        monitor=cast(Monitor, machine),
        resolved=host_dns,
        connector=OneSession(None if tunnel.state == "connecting" else far_end),
        server_addresses=lambda: frozenset(tunnel.server_addresses),
        control=ControlServer,
        tell=lambda order: is_up.set() if order is Act.TELL_READY else None,
        clock=clock.monotonic,
    )
    client.state._started_at -= tunnel.uptime_s
    running = asyncio.create_task(client.serve())
    if tunnel.state == "connecting":
        await asyncio.sleep(0)
    else:
        up = asyncio.create_task(is_up.wait())
        await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
        assert up.done(), running.result()
        assert client.tunnel is not None
        assert client._uplink is not None
        _fill(client.tunnel, gate)
        await _lose(tunnel, far_end, client._uplink, clock)
    if tunnel.state == "closing":
        client.stop()
        await far_end.is_closing.wait()
    ready.set_result(gate)
    await over.wait()
    far_end.may_close.set()
    machine.is_slow = False
    machine.close() if tunnel.state == "closing" else client.stop()
    with suppress(OverlayError):
        await running
    machine.listener.close()
    gate.close()


def _fill(core: client_tunnel.Tunnel, gate: Gate) -> None:
    """Let a client have flows, counters, and a capture that goes on."""
    tunnel = gate.tunnel
    gate.core = core
    for name, value in tunnel.counters.items():
        setattr(core.counters, name, value)
    for reason, packets in tunnel.dropped.items():
        core.counters.dropped[DropReason(reason)] = packets
    flows = [msgspec.convert(one, FlowStatus) for one in tunnel.flows]

    def kill(flow: str) -> bool:
        found = [one for one in flows if one.id == flow]
        for one in found:
            flows.remove(one)
        return bool(found)

    cast(Any, core).list_flows = lambda: flows
    cast(Any, core).kill_flow = kill
    if tunnel.is_captured_already:
        sock = core.captures.begin()
        assert sock is not None
        gate._taps.append(adopt(sock.detach(), TAP))


async def _lose(tunnel: Tunnel, far_end: FarEnd, session: Uplink, clock: Clock) -> None:
    """Lose the session, and be at the try that the scenario is about."""
    if not tunnel.lost:
        return
    is_lost = asyncio.Event()
    session.on_lost(is_lost.set)
    far_end.closed.set_result(tunnel.lost)
    await is_lost.wait()
    schedule = session._state._schedule
    schedule.attempts = tunnel.attempts
    schedule.due = clock.monotonic() + tunnel.retry_in_s if tunnel.retry_in_s else float("inf")


async def _run(about: Run, clock: Clock, ready: asyncio.Future[Gate], over: asyncio.Event) -> None:
    """Do as `run.CommandClient.serve` once the session and the namespaces are there."""
    tunnel = about.tunnel
    gate, far_end = Gate(tunnel), FarEnd(tunnel)
    rules = [parse_rule(Action.DENY, text) for text in tunnel.deny]
    rules += [parse_rule(Action.ALLOW, text) for text in tunnel.allow]
    settings = SessionSettings(
        target=None if about.is_embedded else parse_target(tunnel.target),
        dns=cast(DnsMode, tunnel.dns),
        dns_server=tunnel.dns_server,
        hosts=dict(map(parse_host, tunnel.hosts)),
        policy=Policy(rules),
        host_loopback=tunnel.host_loopback,
    )
    started = clock.time() - about.age_s
    said = messages.Run(about.id, about.pid, settings.address_text, about.command, started)
    client = run.CommandClient(
        settings,
        said,
        connector=OneSession(None),
        namespace=cast(Namespace, None),
        parent=gate.link,
        end_processes=os.close,
        say=lambda line: None,
    )
    session = Uplink(
        cast(Session, far_end), OneSession(None).connect, client._state, lambda event: None
    )
    core = client._tunnel = open_tunnel(gate.link, session, settings, base.PlainSockets())
    configure = Configure(True, ())
    await core.configure(configure)
    context = TunnelContext(
        server=settings.server_text,
        asked=asked_of(tunnel.dns_server, is_asking=core.resolver is not None),
        search=() if rules else ("corp.example", "example.org"),
    )
    core.explain(session, configure, lambda: context)
    _fill(core, gate)
    listener, path = runtime.listen(about.id)
    # Descriptors that stand for the namespaces.
    client._spaces = (listener.fileno(),) * 3
    serving = ControlServer(listener, client)
    answering = asyncio.create_task(serving.serve())
    ready.set_result(gate)
    await over.wait()
    answering.cancel()
    core.abort()
    await serving.finish()
    listener.close()
    path.unlink()
    await far_end.close()
    gate.close()
