"""What a client says of names and destinations: the documents of `dns` and `route`. Pure.

Sizes are counts, times whole seconds. Names are without trailing dot, addresses as text.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

SCHEMA: Final = 1
MAX_BYTES: Final = 1 << 20

State = Literal["down", "blocked", "connecting", "connected", "reconnecting", "closing"]


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
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
    """How often a session has been tried for since the last one was lost."""
    retry_in_s: int = 0
    """Until the next try; 0 while one is running."""
    last_error: str = ""
    """Why there is no session any more, or yet."""
    flows_active: int = 0
    flows_opened: int = 0
    flows_refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dropped: dict[str, int] = {}
    """Packets of this machine that were dropped, by reason (`shim.protocol.gate.DropReason`)."""
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0
    warnings: tuple[str, ...] = ()


DOWN: Final = Status(state="down")
BLOCKED: Final = Status(state="blocked", kill_switch=True)
"""Nobody runs, and the kill switch of who ran last holds."""


FlowState = Literal["opening", "open", "half-closed-local", "half-closed-remote", "closing"]
"""As in RFC 9113 §5.1: which side has ended its data, seen from the application."""

Exit = Literal["server", "loopback"]


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One flow. Sizes are bytes, times whole seconds.

    `destination` is the name that the application has connected to, an address if there is none.
    `exit` is where it leaves: at the server, or at the loopback device of this machine.
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
"""`dns.disposition.Path`, and two more: names are not captured, or a rule forbids it."""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """How a question about a name is answered now.

    `asked` is who is asked at the far end: `server` for a resolver of the server, an address, or
    nobody. `age_s` and `left_s` are of an answer that is cached, `rule` is of one that is refused.
    """

    way: Way
    asked: str = ""
    is_virtual: bool = False
    """Whether an address in the answer is one of the pool."""
    is_away: bool = False
    """Whether it has to be asked, and there is no session."""
    age_s: int = 0
    left_s: int = 0
    rule: str = ""
    rule_number: int = 0


class DestinationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a packet to a host and port in the tunnel, and what is known of the host.

    `name` is the host itself, or that which a virtual address stands for. `place` is where it goes
    at the far end, if the user has said so (`--host`); its port is 0 for the same one.
    """

    name: str = ""
    way: Resolution | None = None
    """Of a name."""
    outcome: str = ""
    """Of a name: what is known of its addresses (`dns.upstream.Outcome`, in lower case)."""
    addresses: tuple[str, ...] = ()
    """Of a name: those of the pool that it has or would have, of the families that it has."""
    is_assigned: bool = False
    is_pool: bool = False
    """Whether the host is an address of the pool."""
    is_allowed: bool = True
    rule: str = ""
    rule_number: int = 0
    """From 1; 0 is the default of all rules."""
    exit: Exit = "server"
    place: str = ""
    place_port: int = 0
    has_loopback: bool = False
    """Whether the loopback of this machine may be reached (`--host-loopback`)."""
    server: str = ""
    is_server: bool = False
    """Whether the host is the server of the tunnel."""
    is_connected: bool = True
    retry_in_s: int = 0
    last_error: str = ""
    carries_udp: bool = True
    kill_switch: bool = False
    lan: bool = True
    paused_s: int = 0


class Pool(msgspec.Struct, frozen=True):
    """The virtual addresses of each family."""

    slots: int
    used: int
    pinned: int


class DnsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `overlay-vpn dns status --json` prints."""

    schema: int = SCHEMA
    mode: Literal["virtual", "remote"]
    asked: str
    """Who is asked at the far end, as in `Resolution`."""
    is_connected: bool
    is_captured: bool
    """Whether port 53 of every resolver is."""
    suffixes: tuple[str, ...]
    """Whose names are the tunnel's; none for all names."""
    hosts: dict[str, str]
    """The user's addresses of names, with their ports if they have one."""
    search: tuple[str, ...]
    """Search domains that the command of a run was given."""
    pool: Pool | None
    """None if the gate does not answer."""
    cache_answers: int
    cache_hits: int
    resolved: str
    """What systemd-resolved has made of it (`shim.protocol.resolved.Outcome`)."""
    paused_s: int
    warnings: tuple[str, ...]
