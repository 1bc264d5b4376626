"""What leaves through the session, and what may: rules, static names, this machine's loopback.

Everything that an application asks for passes here once: names when they are asked about, and
destinations when they are connected to. What was decided, and what became of it, is reported.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from dns.disposition import ADDRESSES, Path
from dns.names import fold, parse_text
from dns.static import StaticNames
from dns.upstream import FAILED, Answer, write_answer
from dns.upstream import Outcome as FarOutcome
from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.gate import LookedUp, Lookup, Outcome
from vpn.client.flows.tcp import Opener
from vpn.client.names.far_resolver import FarResolver
from vpn.control.messages import Exit
from vpn.policy import report as reports
from vpn.policy.rules import Decision, Policy
from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.pump import Pump

_NO_PORT: Final = 0
_GATEWAYS: Final = (GATEWAY4, GATEWAY6)
_OUTCOMES: Final = {
    Failure.ECONNREFUSED: reports.Outcome.REFUSED,
    Failure.EHOSTUNREACH: reports.Outcome.UNREACHABLE,
    Failure.ENETUNREACH: reports.Outcome.UNREACHABLE,
    Failure.NXDOMAIN: reports.Outcome.UNREACHABLE,
    Failure.UNAVAILABLE: reports.Outcome.UNREACHABLE,
    Failure.UNSUPPORTED: reports.Outcome.UNREACHABLE,
    Failure.ETIMEDOUT: reports.Outcome.TIMED_OUT,
    Failure.POLICY: reports.Outcome.DENIED,
}

_TOLD: Final = (FarOutcome.FOUND, FarOutcome.NO_DATA, FarOutcome.NX_DOMAIN)


class Far(Opener, Protocol):
    """The far end: flows, and the services of our own server."""

    @property
    def has_datagrams(self) -> bool:
        """Whether there are datagrams beside its stream."""
        ...

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Have a protocol of ours talk to a service. Raises OpenFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows. `hosts` maps a name to an address and a port, 0 for the same port."""

    policy: Policy = field(default_factory=lambda: Policy(()))
    hosts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    host_loopback: bool = False


class Egress:
    """Opens flows, or not."""

    def __init__(
        self,
        session: Far,
        resolver: FarResolver | None,
        limits: Limits,
        report: reports.Report | None = None,
    ) -> None:
        """Without a `resolver` every name that may be asked for exists."""
        self._session = session
        self._resolver = resolver
        self._limits = limits
        self._static = StaticNames({name: host for name, (host, _) in limits.hosts.items()})
        self._report = report

    async def open(self, host: str, port: int) -> Pump:
        """Return a flow to a name or address. Raises OpenFailed."""
        decision = self._limits.policy.decide(host, port)
        report = self._report
        if report is not None:
            report.on_open(host, port, decision, time.time())
        if not decision.allowed:
            raise OpenFailed(Failure.POLICY, decision.rule_text)
        try:
            pump = await self._open(host, port)
        except OpenFailed as error:
            if report is not None:
                report.on_result(host, port, _OUTCOMES[error.failure], time.time())
            raise
        if report is not None:
            report.on_result(host, port, reports.Outcome.OPENED, time.time())
            pump.on_done(
                lambda done: report.on_bytes(
                    host, port, done.bytes_up, done.bytes_down, time.time()
                )
            )
        return pump

    def admit_ping(self, host: str) -> str:
        """Return whom to ping for a host. Raises OpenFailed if the rules forbid it.

        A ping has no port: only rules without ports are about it.
        """
        decision = self._limits.policy.decide(host, _NO_PORT)
        if self._report is not None:
            self._report.on_open(host, _NO_PORT, decision, time.time())
        if not decision.allowed:
            raise OpenFailed(Failure.POLICY, decision.rule_text)
        return self._limits.hosts.get(host, (host, _NO_PORT))[0]

    def on_ping_result(self, host: str, failure: Failure | None) -> None:
        """Report what became of the first ping of an admitted host; None is an answer."""
        if self._report is not None:
            outcome = reports.Outcome.OPENED if failure is None else _OUTCOMES[failure]
            self._report.on_result(host, _NO_PORT, outcome, time.time())

    def admit_datagrams(self, host: str, port: int) -> tuple[str, int]:
        """Return where datagrams to a destination go. Raises OpenFailed if they may not."""
        decision = self._limits.policy.decide(host, port)
        if self._report is not None:
            self._report.on_open(host, port, decision, time.time())
        if not decision.allowed:
            raise OpenFailed(Failure.POLICY, decision.rule_text)
        address, other_port = self._limits.hosts.get(host, (host, 0))
        if address in _GATEWAYS:
            # This machine's own loopback is for connections.
            self.on_datagrams(host, port, Failure.ECONNREFUSED)
            raise OpenFailed(Failure.ECONNREFUSED)
        return address, other_port or port

    def on_datagrams(self, host: str, port: int, failure: Failure | None) -> None:
        """Report what became of an admitted destination; None is that datagrams leave."""
        if self._report is not None:
            outcome = reports.Outcome.OPENED if failure is None else _OUTCOMES[failure]
            self._report.on_result(host, port, outcome, time.time())

    def on_datagram_bytes(self, host: str, port: int, up: int, down: int) -> None:
        """Report what has gone to an admitted destination, and come from it."""
        if self._report is not None:
            self._report.on_bytes(host, port, up, down, time.time())

    @property
    def has_datagrams(self) -> bool:
        """Whether there are datagrams beside the stream of the session."""
        return self._session.has_datagrams

    async def open_service(self, service: tuple[str, int], protocol: asyncio.Protocol) -> None:
        """Have a protocol talk to a service of our own server. Raises OpenFailed."""
        await self._session.open_service(*service, protocol)

    async def ask(self, question: Lookup) -> LookedUp:
        """Return what is known of a name."""
        message = b""
        try:
            answer = await self._answer(question.name, question.rtype)
            if answer.outcome in _TOLD and question.rtype not in ADDRESSES:
                message = write_answer(answer, question.name, question.rtype)
        except ValueError:  # no name, or more than a message holds
            answer = FAILED
        return LookedUp(question.query, Outcome[answer.outcome.name], message)

    def path_of(self, name: str, rtype: int) -> Path:
        """Return who answers a question that the gate does not answer by itself."""
        if self._static.answer(name, rtype) is not None:
            return Path.STATIC
        if self._resolver is None:
            return Path.VIRTUAL
        return Path.FAR if self._resolver.cached_for(name, rtype) is None else Path.CACHED

    @property
    def limits(self) -> Limits:
        """What the user allows."""
        return self._limits

    @property
    def resolver(self) -> FarResolver | None:
        """Who is asked about names."""
        return self._resolver

    def close(self) -> None:
        """Ask nobody any more."""
        if self._resolver is not None:
            self._resolver.close()

    def exit_of(self, host: str) -> Exit:
        """Return where flows to a host leave."""
        address, _ = self._limits.hosts.get(host, (host, 0))
        return "loopback" if address in _GATEWAYS else "server"

    def judge_name(self, name: str, rtype: int) -> Decision:
        """Return whether a name may be asked about. Raises ValueError if it is none."""
        if rtype in ADDRESSES:
            return self._limits.policy.decide_name(name)
        return self._limits.policy.decide_labels(fold(parse_text(name)))

    async def known(self, name: str, rtype: int) -> Answer:
        """Return what is known of a name, allowed or not, without a report of it.

        Raises ValueError if it is none.
        """
        static = self._static.answer(name, rtype)
        if static is not None:
            return static
        if self._resolver is None:
            return Answer(FarOutcome.FOUND if rtype in ADDRESSES else FarOutcome.UNSUPPORTED)
        return await self._resolver.ask(name, rtype)

    async def _answer(self, name: str, rtype: int) -> Answer:
        decision = self.judge_name(name, rtype)
        if self._report is not None:
            self._report.on_lookup(name, decision, time.time())
        if not decision.allowed:
            return Answer(FarOutcome.REFUSED)
        return await self.known(name, rtype)

    async def _open(self, host: str, port: int) -> Pump:
        address, other_port = self._limits.hosts.get(host, (host, 0))
        if self.exit_of(host) == "loopback":
            return await self._open_loopback(other_port or port)
        return await self._session.open(address, other_port or port)

    async def _open_loopback(self, port: int) -> Pump:
        """Connect to this machine's own loopback, where that is allowed."""
        if not self._limits.host_loopback:
            raise OpenFailed(Failure.ECONNREFUSED)
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
        except OSError as error:
            sock.close()
            raise OpenFailed(Failure.ECONNREFUSED) from error
        pump = Pump()
        await loop.create_connection(lambda: pump.far, sock=sock)
        return pump
