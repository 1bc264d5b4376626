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

from vpn.client.flows import admission
from vpn.client.flows.admission import Admission, Destination, FarEnd, Limits
from vpn.client.flows.tcp import Opener
from vpn.control.messages import Exit
from vpn.policy import report as reports
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


class Far(Opener, Protocol):
    """The far end: flows, and the services of our own server."""

    @property
    def is_up(self) -> bool:
        """Whether there is a session."""
        ...

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Connect a protocol to a service of our server. Raises OpenFailed."""
        ...

    @property
    def is_overlay_server(self) -> bool:
        """Whether the server is one of ours, which has services."""
        ...

    @property
    def has_datagrams(self) -> bool:
        """Whether the session carries datagrams next to its stream."""
        ...


class Egress:
    """Opens the flows of one tunnel."""

    def __init__(
        self,
        session: Far,
        limits: Limits,
        report: reports.Report | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the time of what is reported, in seconds since the epoch."""
        self._session = session
        self._limits = limits
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
        """Whether the session carries datagrams next to its stream."""
        return self._session.has_datagrams

    async def open_service(self, service: tuple[str, int], protocol: asyncio.Protocol) -> None:
        """Connect a protocol to a service of our server. Raises OpenFailed."""
        await self._session.open_service(*service, protocol)

    @property
    def limits(self) -> Limits:
        """What the user allows."""
        return self._limits

    def exit_of(self, host: str) -> Exit:
        """Return where flows to a host leave."""
        return admission.exit_of(self._limits, host)

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
