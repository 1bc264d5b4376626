"""The way out of a tunnel: opens what is admitted, at the far end or on this machine's loopback.

What may be opened is decided by `vpn.client.flows.admission`; what was decided, and what became of
it, is written into the report of the run, if there is one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

from dns.disposition import ADDRESSES, Path
from dns.static import StaticNames
from dns.upstream import FAILED, Answer, write_answer
from dns.upstream import Outcome as FarOutcome
from shim.protocol.gate import LookedUp, Lookup, Outcome
from vpn.client.flows import admission
from vpn.client.flows.admission import Admission, Destination, FarEnd, Limits
from vpn.client.flows.tcp import Opener
from vpn.client.names.far_resolver import FarResolver
from vpn.control.messages import Exit
from vpn.policy import report as reports
from vpn.policy.rules import Decision
from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.pump import Pump

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
    def is_up(self) -> bool:
        """Whether there is a session."""
        ...

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Have a protocol of ours talk to a service. Raises OpenFailed."""
        ...

    @property
    def is_overlay_server(self) -> bool:
        """Whether the server is one of ours, which has services."""
        ...

    @property
    def has_datagrams(self) -> bool:
        """Whether there are datagrams beside its stream."""
        ...


class Egress:
    """Opens flows, or not."""

    def __init__(
        self,
        session: Far,
        resolver: FarResolver | None,
        limits: Limits,
        report: reports.Report | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a `resolver` every name that may be asked for exists.

        `clock` gives the time of what is reported, in seconds since the epoch.
        """
        self._session = session
        self._resolver = resolver
        self._limits = limits
        self._static = StaticNames({name: host for name, (host, _) in limits.hosts.items()})
        self._report = report
        self._clock = clock

    def judge(self, destination: Destination) -> Admission:
        """Return what becomes of a flow, without a report of it."""
        far_end = FarEnd(self._session.is_up, self._session.is_overlay_server)
        return admission.admit(self._limits, far_end, destination, self._clock())

    def admit(self, destination: Destination) -> Admission:
        """Return what becomes of a flow that an application wants."""
        admitted = self.judge(destination)
        if self._report is not None:
            host, port = destination.host, destination.port
            self._report.on_open(host, port, admitted.decision, admitted.time_s)
        return admitted

    def on_result(self, destination: Destination, failure: Failure | None) -> None:
        """Report what became of a flow that the rules allow; None is that it was opened."""
        if self._report is not None:
            outcome = reports.Outcome.OPENED if failure is None else _OUTCOMES[failure]
            self._report.on_result(destination.host, destination.port, outcome, self._clock())

    def on_bytes(self, destination: Destination, up: int, down: int) -> None:
        """Report what has gone to a destination that the rules allow, and come from it."""
        if self._report is not None:
            self._report.on_bytes(destination.host, destination.port, up, down, self._clock())

    async def open(self, host: str, port: int) -> Pump:
        """Return a connection to a name or address. Raises OpenFailed."""
        destination = Destination("tcp", host, port)
        admitted = self.admit(destination)
        try:
            admitted.require()
            pump = await self._open(admitted)
        except OpenFailed as failed:
            if admitted.decision.allowed:
                self.on_result(destination, failed.failure)
            raise
        self.on_result(destination, None)
        pump.on_done(lambda done: self.on_bytes(destination, done.bytes_up, done.bytes_down))
        return pump

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
        return admission.exit_of(self._limits, host)

    def judge_name(self, name: str, rtype: int) -> Decision:
        """Return whether a name may be asked about. Raises ValueError if it is none."""
        return admission.admit_name(self._limits, name, rtype)

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
            self._report.on_lookup(name, decision, self._clock())
        if not decision.allowed:
            return Answer(FarOutcome.REFUSED)
        return await self.known(name, rtype)

    async def _open(self, admitted: Admission) -> Pump:
        if admitted.exit == "loopback":
            return await _open_loopback(admitted.port)
        return await self._session.open(admitted.host, admitted.port)


async def _open_loopback(port: int) -> Pump:
    """Connect to this machine's own loopback. Raises OpenFailed."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, ("127.0.0.1", port))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise OpenFailed(Failure.ECONNREFUSED) from error
        raise
    pump = Pump()
    await loop.create_connection(lambda: pump.far, sock=sock)
    return pump
