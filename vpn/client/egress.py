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
from typing import Final

from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.gate import Lookup, Outcome
from vpn import report as reports
from vpn.client.flows import Opener
from vpn.client.resolver import FarResolver
from vpn.policy import Policy
from vpn.pump import Pump
from vpn.ssh.failure import Failure, OpenFailed

_GATEWAYS: Final = (GATEWAY4, GATEWAY6)
_OUTCOMES: Final = {
    Failure.ECONNREFUSED: reports.Outcome.REFUSED,
    Failure.EHOSTUNREACH: reports.Outcome.UNREACHABLE,
    Failure.ENETUNREACH: reports.Outcome.UNREACHABLE,
    Failure.NXDOMAIN: reports.Outcome.UNREACHABLE,
    Failure.UNAVAILABLE: reports.Outcome.UNREACHABLE,
    Failure.ETIMEDOUT: reports.Outcome.TIMED_OUT,
    Failure.POLICY: reports.Outcome.DENIED,
}


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
        session: Opener,
        resolver: FarResolver | None,
        limits: Limits,
        report: reports.Report | None = None,
    ) -> None:
        """Without a `resolver` every name that may be asked for exists."""
        self._session = session
        self._resolver = resolver
        self._limits = limits
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

    async def ask(self, question: Lookup) -> Outcome:
        """Return what is known of a name."""
        decision = self._limits.policy.decide_name(question.name)
        if self._report is not None:
            self._report.on_lookup(question.name, decision, time.time())
        if not decision.allowed:
            return Outcome.REFUSED
        if self._resolver is None or question.name in self._limits.hosts:
            return Outcome.FOUND
        return await self._resolver.ask(question)

    def close(self) -> None:
        """Ask nobody any more."""
        if self._resolver is not None:
            self._resolver.close()

    async def _open(self, host: str, port: int) -> Pump:
        if host in _GATEWAYS:
            return await self._open_loopback(port)
        address, other_port = self._limits.hosts.get(host, (host, 0))
        if address in _GATEWAYS:
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
