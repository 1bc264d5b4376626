"""The messages between a running tunnel and the programs that ask it, and what they carry. Pure.

Theory of operation
-------------------
A running tunnel answers on a Unix socket: that of `up` on the socket of its network namespace, that
of `run` on the socket of its run (`runs.py`). A connection is a link (`shim.protocol.link`): the
messages are a closed set, each with the largest encoding and the number of descriptors that it may
have, and whatever breaks a rule ends the connection.

Both ends begin with `Hello`. Then the client makes one request, and the server sends the answer
that the request names below, or `Refused`; then the connection ends. `CapturePackets` and
`Subscribe` last until one end closes the connection.

The encodings of `Hello` and `TakeDown` never change: a program that was upgraded can tell a tunnel
of another version, and take it down.

The documents are what `--json` prints: their members and the order of these are part of the user
interface, and each has the number of its schema. Sizes are bytes, times whole seconds unless they
say otherwise, names without a trailing dot, addresses text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final, Literal

import msgspec

from shim.protocol.common import Hello
from shim.protocol.gate import MAX_NAME, MAX_NAME_TEXT, MAX_SUFFIXES
from shim.protocol.link import Message, role
from shim.protocol.monitor import MAX_PREFIXES

VERSION: Final = 1
"""Of this set of messages. Raised whenever one of them changes."""

SCHEMA: Final = 1
"""Of the documents."""

TIMEOUT_S: Final = 10.0
"""How long a client may take to make its request and to read the answer, and a server to answer."""

FLOWS_PER_PAGE: Final = 16
MAX_FLOW_ID: Final = 32
MAX_PROBLEM: Final = 4096
"""Characters of a line for people."""
_KIB: Final = 1024
_MAX_DOCUMENT: Final = 192 * _KIB
"""A packet must fit into the send buffer of a socket, which has 208 KiB (net.core.wmem_default)."""

# The documents.

State = Literal["down", "blocked", "connecting", "connected", "reconnecting", "closing"]


class Status(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `overlay-vpn status --json` prints. Sizes are bytes, times seconds."""

    schema: int = SCHEMA
    state: State
    target: str = ""
    transport: str = ""
    device: str = ""
    dns: str = ""
    routes: tuple[str, ...] = ()
    pid: int = 0
    uptime_s: int = 0
    attempts: int = 0
    """Attempts at a session since the last one was lost."""
    retry_in_s: int = 0
    """Until the next attempt; 0 while one is under way."""
    last_error: str = ""
    """Why there is no session; empty while there is one."""
    flows_active: int = 0
    flows_opened: int = 0
    flows_refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dropped: dict[str, int] = {}
    """Dropped packets by reason (`shim.protocol.gate.DropReason`)."""
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0
    warnings: tuple[str, ...] = ()


DOWN: Final = Status(state="down")
BLOCKED: Final = Status(state="blocked", kill_switch=True)
"""Nothing runs, and the kill switch of the instance that ran last holds."""


FlowState = Literal["opening", "open", "half-closed-local", "half-closed-remote", "closing"]
"""As in RFC 9113 §5.1: which side has ended its data, seen from the application."""

Exit = Literal["server", "loopback"]

Obstacle = Literal["rule", "reserved", "loopback", "session", "service"]
"""The values of `vpn.client.flows.admission.Obstacle`."""


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One flow. Sizes are bytes, times whole seconds.

    `destination` is the name that the application has connected to, or an address if it has used
    one. `exit` is where the flow leaves the tunnel: at the server, or at this machine's loopback.
    """

    id: str
    protocol: Literal["tcp", "udp"]
    source: str
    source_port: int
    destination: str
    destination_port: int
    state: FlowState
    bytes_up: int
    bytes_down: int
    age_s: int
    idle_s: int
    exit: Exit


class FlowList(msgspec.Struct, frozen=True):
    """What `overlay-vpn flows --json` prints."""

    schema: int
    flows: tuple[FlowStatus, ...]


Way = Literal["virtual", "static", "far", "cached", "forwarded", "special", "outside", "refused"]
"""`dns.disposition.Path`; `outside` if names are not captured, `refused` if a rule forbids it."""


class Resolution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a query for a name is answered now.

    `asked` is the resolver at the far end: `server` for the server's own, an address, or empty for
    none. `age_s` and `left_s` are the age and the remaining TTL of a cached answer; `rule` is what
    refuses the query.
    """

    way: Way
    asked: str = ""
    is_virtual: bool = False
    """Whether the addresses in the answer are virtual."""
    is_away: bool = False
    """Whether the far end has to be queried and there is no session."""
    age_s: int = 0
    left_s: int = 0
    rule: str = ""
    rule_number: int = 0


class DestinationStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tunnel does with a packet to a host and port, and what it knows of the host.

    `name` is the host itself, or the name of a virtual address. `place` is the address that
    `--host` gives it at the far end, if any; `place_port` is 0 for the port of the packet.
    """

    name: str = ""
    way: Resolution | None = None
    """How a query for the name is answered; None for an address."""
    outcome: str = ""
    """Of a name: the outcome of queries for its addresses (`dns.upstream.Outcome`, lower case)."""
    addresses: tuple[str, ...] = ()
    """Of a name: its virtual addresses, or those that it would get, of the families it has."""
    is_assigned: bool = False
    is_pool: bool = False
    """Whether the host is a virtual address."""
    obstacle: Obstacle | None = None
    """What keeps a flow to it from being opened; without a port, ping."""
    rule: str = ""
    rule_number: int = 0
    """Counted from 1; 0 is the default rule."""
    exit: Exit = "server"
    place: str = ""
    place_port: int = 0
    server: str = ""
    is_server: bool = False
    """Whether the host is the server of the tunnel."""
    retry_in_s: int = 0
    last_error: str = ""
    carries_udp: bool = True
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The use of the pool of virtual addresses, of each family."""

    slots: int
    used: int
    pinned: int


class DnsStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `overlay-vpn dns status --json` prints."""

    schema: int = SCHEMA
    mode: Literal["virtual", "remote"]
    asked: str
    """The resolver at the far end, as in `Resolution`."""
    is_connected: bool
    is_captured: bool
    """Whether port 53 of every resolver is captured."""
    suffixes: tuple[str, ...]
    """The suffixes of names that the tunnel answers; empty for all names."""
    hosts: dict[str, str]
    """The addresses of `--host` by name, with their ports if they have one."""
    search: tuple[str, ...]
    """The search domains of the command of a run."""
    pool: Pool | None
    """None if the gate does not answer."""
    cache_answers: int
    cache_hits: int
    resolved: str
    """The result of configuring systemd-resolved (`shim.protocol.resolved.Outcome`)."""
    paused_s: int
    warnings: tuple[str, ...]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run, as `overlay-vpn list --json` prints it. `started` is in Unix seconds."""

    id: str
    pid: int
    target: str
    command: tuple[str, ...]
    started: float


# client → server


class GetStatus(Message, frozen=True, tag="get-status"):
    """Asks for `StatusAnswer`."""


class TakeDown(Message, frozen=True, tag="take-down"):
    """Take the tunnel down, and the kill switch. Answered with `Done` when that is done."""


class PauseFor(Message, frozen=True, tag="pause-for"):
    """Let everything pass outside the tunnel for a while; 0 ends that. Answered with `Done`."""

    seconds: int


class ListFlows(Message, frozen=True, tag="list-flows"):
    """Asks for the flows, oldest first: as many `FlowPage` as it takes."""


class KillFlow(Message, frozen=True, tag="kill-flow"):
    """Reset a flow at both ends. Answered with `Done`."""

    SIZE: ClassVar[int] = 64 + 4 * MAX_FLOW_ID

    flow: str


class CapturePackets(Message, frozen=True, tag="capture-packets"):
    """Copy packets, until the connection ends. Answered with `Capturing`."""


class GetDnsStatus(Message, frozen=True, tag="get-dns-status"):
    """Asks for `DnsStatusAnswer`."""


class _AboutName(Message, frozen=True):
    SIZE: ClassVar[int] = 64 + MAX_NAME_TEXT


class GetResolution(_AboutName, frozen=True, tag="get-resolution"):
    """Asks for `ResolutionAnswer`: how a query for records of a type would be answered."""

    name: str
    rtype: int


class GetDestination(_AboutName, frozen=True, tag="get-destination"):
    """Asks for `DestinationAnswer`, about a name or address; `port` is 0 for what has none."""

    host: str
    port: int


class GetRun(Message, frozen=True, tag="get-run"):
    """Asks for `RunAnswer`."""


class GetNamespaces(Message, frozen=True, tag="get-namespaces"):
    """Asks for `Namespaces`."""


class Subscribe(Message, frozen=True, tag="subscribe"):
    """Asks for events from now on, the state of the moment first, until the connection ends."""


Request = (
    GetStatus
    | TakeDown
    | PauseFor
    | ListFlows
    | KillFlow
    | CapturePackets
    | GetDnsStatus
    | GetResolution
    | GetDestination
    | GetRun
    | GetNamespaces
    | Subscribe
)

# server → client


class Refusal(StrEnum):
    """Why a request was refused."""

    NOT_PERMITTED = "not-permitted"
    NOT_UP = "not-up"
    NOT_OFFERED = "not-offered"
    """It does not apply to this kind of tunnel: `run` has no status, `up` no namespaces."""
    MALFORMED = "malformed"
    NO_FLOW = "no-flow"
    BUSY = "busy"
    FAILED = "failed"


class RefusedError(Exception):
    """A request was refused. `text` is one line for people, and may be empty."""

    def __init__(self, why: Refusal, text: str = "") -> None:
        super().__init__(text or why.value)
        self.why = why
        self.text = text


class Refused(Message, frozen=True, tag="refused"):
    """The request was not carried out, and nothing of it remains. As in `RefusedError`."""

    SIZE: ClassVar[int] = 64 + 4 * MAX_PROBLEM

    why: Refusal
    text: str = ""


class Done(Message, frozen=True, tag="done"):
    """The request was carried out."""


class StatusAnswer(Message, frozen=True, tag="status"):
    """The state of the tunnel."""

    SIZE: ClassVar[int] = 64 * _KIB + MAX_PREFIXES * 64 + MAX_SUFFIXES * (MAX_NAME + 4)

    status: Status


class FlowPage(Message, frozen=True, tag="flow-page"):
    """Flows, at most `FLOWS_PER_PAGE`."""

    SIZE: ClassVar[int] = 64 + FLOWS_PER_PAGE * 2 * _KIB

    flows: tuple[FlowStatus, ...]
    is_last: bool


class Capturing(Message, frozen=True, tag="capturing"):
    """Carries the link from which packets come (`shim.protocol.tap`)."""

    FDS: ClassVar[int] = 1


class DnsStatusAnswer(Message, frozen=True, tag="dns-status"):
    """How names are answered."""

    SIZE: ClassVar[int] = _MAX_DOCUMENT

    status: DnsStatus


class ResolutionAnswer(Message, frozen=True, tag="resolution"):
    """How a query is answered."""

    SIZE: ClassVar[int] = 16 * _KIB

    resolution: Resolution


class DestinationAnswer(Message, frozen=True, tag="destination"):
    """What becomes of a packet."""

    SIZE: ClassVar[int] = 64 * _KIB

    destination: DestinationStatus


class RunAnswer(Message, frozen=True, tag="run"):
    """What runs, and where to."""

    SIZE: ClassVar[int] = _MAX_DOCUMENT

    run: Run


class Namespaces(Message, frozen=True, tag="namespaces"):
    """Carries the user, mount and network namespace of a run."""

    FDS: ClassVar[int] = 3


class StateChanged(Message, frozen=True, tag="state-changed"):
    """An event: the tunnel is in this state now, and why if that is a failure."""

    SIZE: ClassVar[int] = 16 * _KIB

    state: State
    last_error: str = ""


class Warned(Message, frozen=True, tag="warned"):
    """An event: something that the user should know, and that ends nothing."""

    SIZE: ClassVar[int] = 16 * _KIB

    text: str


class Missed(Message, frozen=True, tag="missed"):
    """An event: so many others before this one were dropped, as they were not read in time."""

    events: int


Event = StateChanged | Warned | Missed

Answer = (
    Refused
    | Done
    | StatusAnswer
    | FlowPage
    | Capturing
    | DnsStatusAnswer
    | ResolutionAnswer
    | DestinationAnswer
    | RunAnswer
    | Namespaces
    | Event
)

SERVER: Final = role(Hello | Request)
CLIENT: Final = role(Hello | Answer)

# Between the process that has the session of `run` and the command's parent.


class Ready(Message, frozen=True, tag="ready"):
    """The command may start. Carries the user, mount and network namespace.

    `search` are the domains in which its stub resolver looks for names.
    """

    SIZE: ClassVar[int] = 64 * _KIB
    FDS: ClassVar[int] = 3

    search: tuple[str, ...] = ()


class NotReady(Message, frozen=True, tag="not-ready"):
    """The command must not start."""

    SIZE: ClassVar[int] = 64 + 4 * MAX_PROBLEM

    problem: str


class Exited(Message, frozen=True, tag="exited"):
    """From the parent: the command has ended."""

    status: int


class Finished(Message, frozen=True, tag="finished"):
    """Every flow has drained: whether a destination was denied, and a problem at the end."""

    SIZE: ClassVar[int] = 64 + 4 * MAX_PROBLEM

    has_denied: bool
    problem: str


PARENT: Final = role(Ready | NotReady | Finished)
CLIENT_OF_PARENT: Final = role(Exited)
