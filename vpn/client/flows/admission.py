"""The admission of a flow: where it goes, or what keeps it from going there. Pure.

Theory of operation
-------------------
`admit` decides about a destination as its application names it: a name, or an address where the
application has asked for no name. Whoever opens a flow, and whoever explains what would become of
one, asks here, so there is no second opinion. The first of these that holds is the obstacle:

1. a rule of the user forbids it, or it is no destination (`vpn.policy.rules`). Rules speak of the
   name, also of one that the user has given an address. Ping has no port: only rules without ports
   are about it;
2. it is a name of the services of our own server (`vpn.protocol.services`), which are for the
   client. DNS denies that there are such names, so only a client that asks for no address gets
   this far;
3. it is an address of the gate, by itself or as the address of a name. These stand for this
   machine: ping is answered, connections go to its loopback where the user has asked for that, and
   datagrams never do. Every other spelling of loopback (127.0.0.1, ::1, also as an IPv4-mapped
   address) is the loopback of the far end, and the server's to judge;
4. there is no session. Nothing waits for the next one;
5. the server is another sshd: it carries connections only.

The first three last as long as the rules do (`is_forbidden`), the others as long as the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from dns.disposition import ADDRESSES
from dns.names import fold, parse_text
from shim.protocol import GATEWAY4, GATEWAY6
from vpn.control.messages import Exit
from vpn.policy.rules import Decision, Policy
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.services import is_reserved

_GATEWAYS: Final = (GATEWAY4, GATEWAY6)

TransportProtocol = Literal["tcp", "udp", "icmp"]
"""Of a flow; `icmp` is echo, and has the port 0."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows. `hosts` maps a name to an address and a port, 0 for the same port."""

    policy: Policy = field(default_factory=lambda: Policy(()))
    hosts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    host_loopback: bool = False


@dataclass(frozen=True, slots=True)
class FarEnd:
    """The far end at a moment."""

    is_up: bool
    """Whether there is a session."""
    is_overlay_server: bool
    """Whether its server is one of ours, with services."""


class Obstacle(StrEnum):
    """What keeps a flow from being opened."""

    RULE = "rule"
    RESERVED = "reserved"
    """The name is one of our own server's services."""
    LOOPBACK = "loopback"
    """It is an address of the gate, where nothing listens for this flow."""
    SESSION = "session"
    """There is none."""
    SERVICE = "service"
    """The server carries connections only."""


FAILURES: Final = {
    Obstacle.RULE: Failure.POLICY,
    Obstacle.RESERVED: Failure.NXDOMAIN,
    Obstacle.LOOPBACK: Failure.ECONNREFUSED,
    Obstacle.SESSION: Failure.UNAVAILABLE,
    Obstacle.SERVICE: Failure.UNSUPPORTED,
}
"""What an application learns of each."""

_LASTING: Final = (Obstacle.RULE, Obstacle.RESERVED, Obstacle.LOOPBACK)


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom a flow is for: a name or an address, as its application writes it.

    Ping has the port 0.
    """

    protocol: TransportProtocol
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What was decided about a flow, at `time_s` (seconds since the epoch).

    `host` and `port` are where it goes: those of the destination, or what the user has put in
    their place. `decision` is that of the rules, `obstacle` None where the flow may be opened.
    """

    destination: Destination
    decision: Decision
    exit: Exit
    host: str
    port: int
    obstacle: Obstacle | None
    time_s: float

    @property
    def is_forbidden(self) -> bool:
        """Whether it is refused for as long as the rules are these."""
        return self.obstacle in _LASTING

    @property
    def failure(self) -> Failure | None:
        """Why it cannot be opened, None if it can."""
        return None if self.obstacle is None else FAILURES[self.obstacle]

    def require(self) -> None:
        """Raise OpenFailed if there is an obstacle."""
        match self.obstacle:
            case None:
                return
            case Obstacle.RULE:
                raise OpenFailed(Failure.POLICY, self.decision.rule_text)
            case Obstacle.SESSION:
                raise OpenFailed(Failure.UNAVAILABLE, "there is no session now")
            case obstacle:
                raise OpenFailed(FAILURES[obstacle])


def admit(limits: Limits, far_end: FarEnd, destination: Destination, now_s: float) -> Admission:
    """Return what becomes of a flow. `now_s` is in seconds since the epoch."""
    decision = limits.policy.decide(destination.host, destination.port)
    address, port = limits.hosts.get(destination.host, (destination.host, 0))
    leaves = exit_of(limits, destination.host)
    if not decision.allowed:
        obstacle: Obstacle | None = Obstacle.RULE
    elif is_reserved(destination.host):
        obstacle = Obstacle.RESERVED
    elif leaves == "loopback":
        obstacle = _at_loopback(limits, destination.protocol)
    else:
        obstacle = _at_far_end(far_end, destination.protocol)
    return Admission(
        destination, decision, leaves, address, port or destination.port, obstacle, now_s
    )


def admit_name(limits: Limits, name: str, rtype: int) -> Decision:
    """Return whether a name may be asked about. Raises ValueError if it is none."""
    if rtype in ADDRESSES:
        return limits.policy.decide_name(name)
    return limits.policy.decide_labels(fold(parse_text(name)))


def exit_of(limits: Limits, host: str) -> Exit:
    """Return where flows to a host leave."""
    address, _ = limits.hosts.get(host, (host, 0))
    return "loopback" if address in _GATEWAYS else "server"


def _at_loopback(limits: Limits, protocol: TransportProtocol) -> Obstacle | None:
    is_open = protocol == "icmp" or (protocol == "tcp" and limits.host_loopback)
    return None if is_open else Obstacle.LOOPBACK


def _at_far_end(far_end: FarEnd, protocol: TransportProtocol) -> Obstacle | None:
    if not far_end.is_up:
        return Obstacle.SESSION
    return None if protocol == "tcp" or far_end.is_overlay_server else Obstacle.SERVICE
