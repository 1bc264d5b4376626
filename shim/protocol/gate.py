"""The messages between the client and the gate."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

from shim.protocol.link import Message, role

MAX_SUFFIXES: Final = 256
MAX_DNS_MESSAGE: Final = 65535
MAX_NAME: Final = 253
MAX_CLOSED: Final = 256


class Reason(StrEnum):
    """Why a flow was not opened; each has one answer on the wire (design §2.1)."""

    REFUSED = "refused"
    HOST_UNREACHABLE = "host-unreachable"
    NET_UNREACHABLE = "net-unreachable"
    TIMED_OUT = "timed-out"
    DENIED = "denied"


class Outcome(StrEnum):
    """What the far end knows of a name and type."""

    FOUND = "found"
    NO_DATA = "no-data"
    NX_DOMAIN = "nxdomain"
    REFUSED = "refused"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


# gate → client


class Open(Message, frozen=True, tag="open"):
    """An application wants to connect. `host` is a name, or an address without a name."""

    SIZE: ClassVar[int] = 64 + MAX_NAME

    flow: int
    host: str
    port: int


class Configured(Message, frozen=True, tag="configured"):
    """The gate answers names from now on."""


class Cancel(Message, frozen=True, tag="cancel"):
    """The application gave up before its connection was accepted."""

    flow: int


class Accepted(Message, frozen=True, tag="accepted"):
    """The application's connection. Carries the connected socket."""

    FDS: ClassVar[int] = 1

    flow: int


class Lookup(Message, frozen=True, tag="lookup"):
    """Asks whether `name` has records of type `rtype` (RFC 1035 §3.2.2) at the far end."""

    SIZE: ClassVar[int] = 64 + MAX_NAME

    query: int
    name: str
    rtype: int


class Forward(Message, frozen=True, tag="forward"):
    """A DNS message that goes where it went before: to `server`, outside the tunnel."""

    SIZE: ClassVar[int] = 128 + MAX_DNS_MESSAGE

    query: int
    server: bytes
    over_tcp: bool
    message: bytes


# client → gate


class Configure(Message, frozen=True, tag="configure"):
    """How names are answered. `suffixes` empty means that every name is ours."""

    SIZE: ClassVar[int] = 64 + MAX_SUFFIXES * (MAX_NAME + 4)

    ask_far_end: bool
    suffixes: tuple[str, ...]


class Opened(Message, frozen=True, tag="opened"):
    """The far end has connected."""

    flow: int


class Refused(Message, frozen=True, tag="refused"):
    """The far end has not connected."""

    flow: int
    reason: Reason


class Closed(Message, frozen=True, tag="closed"):
    """The client is done with these accepted flows, at most `MAX_CLOSED` at a time."""

    SIZE: ClassVar[int] = 64 + 5 * MAX_CLOSED

    flows: tuple[int, ...]


class LookedUp(Message, frozen=True, tag="looked-up"):
    """The answer to `Lookup`."""

    query: int
    outcome: Outcome


class Forwarded(Message, frozen=True, tag="forwarded"):
    """The answer to `Forward`; empty if there was none in time."""

    SIZE: ClassVar[int] = 64 + MAX_DNS_MESSAGE

    query: int
    message: bytes


FromGate = Configured | Open | Cancel | Accepted | Lookup | Forward
ToGate = Configure | Opened | Refused | Closed | LookedUp | Forwarded

GATE: Final = role(ToGate)
CLIENT_OF_GATE: Final = role(FromGate)
