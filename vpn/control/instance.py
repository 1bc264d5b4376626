"""The protocols of what the control server controls, so that it knows no composition root."""

from __future__ import annotations

import socket
from typing import Protocol

from vpn.control.events import Events
from vpn.control.messages import (
    DestinationStatus,
    DnsStatus,
    FlowStatus,
    Refusal,
    RefusedError,
    Resolution,
    Run,
    Status,
)


class Explainer(Protocol):
    """The explanation of a tunnel: how it answers names, and what it does with packets."""

    async def dns_status(self) -> DnsStatus:
        """Return how names are answered."""
        ...

    def resolution(self, name: str, rtype: int) -> Resolution:
        """Return how a query is answered. Raises ValueError if `name` is not a name."""
        ...

    async def destination(self, host: str, port: int) -> DestinationStatus:
        """Return what becomes of a packet. Raises ValueError if `host` is no host."""
        ...


class PacketTap(Protocol):
    """The capture of a tunnel, for one reader at a time."""

    def begin(self) -> socket.socket | None:
        """Start a capture and return the socket of its reader; None if there is one already."""
        ...

    async def wait(self) -> None:
        """Wait until the capture is over."""
        ...

    def end(self) -> None:
        """End the capture."""
        ...


class Tunnel(Protocol):
    """A tunnel with flows and packets."""

    @property
    def captures(self) -> PacketTap:
        """The capture."""
        ...

    @property
    def explainer(self) -> Explainer | None:
        """The explanation; None until the configuration of the gate is known."""
        ...

    def list_flows(self) -> list[FlowStatus]:
        """Return all flows, oldest first."""
        ...

    def kill_flow(self, flow: str) -> bool:
        """Reset a flow at both ends. False if there is none of this id."""
        ...


class Instance(Protocol):
    """A running `up` or `run`. A request that does not apply to it raises RefusedError."""

    events: Events

    @property
    def tunnel(self) -> Tunnel | None:
        """The tunnel; None until there is a session."""
        ...

    def status(self) -> Status:
        """Return the state of the tunnel."""
        raise RefusedError(Refusal.NOT_OFFERED)

    async def take_down(self) -> None:
        """Take everything down, and return when that is done."""
        raise RefusedError(Refusal.NOT_OFFERED)

    async def pause(self, seconds: int) -> None:
        """Let traffic bypass the tunnel for so long; 0 ends that. Raises OverlayError."""
        raise RefusedError(Refusal.NOT_OFFERED)

    def describe_run(self) -> Run:
        """Return what runs, and where to."""
        raise RefusedError(Refusal.NOT_OFFERED)

    def namespaces(self) -> tuple[int, int, int]:
        """Return the user, mount and network namespace of the run."""
        raise RefusedError(Refusal.NOT_OFFERED)
