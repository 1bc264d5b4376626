"""The messages between the client and the gate."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

import msgspec

from shim.protocol.link import Message, role

MAX_SUFFIXES: Final = 256
MAX_DNS_MESSAGE: Final = 65535
MAX_NAME: Final = 253
MAX_NAME_TEXT: Final = 4 * MAX_NAME
"""A name of octets that have to be escaped (RFC 1035 §5.1)."""
MAX_CLOSED: Final = 256
MAX_KNOWN: Final = 256
MAX_KEY: Final = 36


def first_number(generation: int) -> int:
    """Return the lowest number of flows and queries of a gate: they never meet another gate's."""
    return (generation - 1 << 40) + 1


class Reason(StrEnum):
    """The reason why a flow was not opened; each has one answer on the wire (design §2.1)."""

    REFUSED = "refused"
    HOST_UNREACHABLE = "host-unreachable"
    NET_UNREACHABLE = "net-unreachable"
    TIMED_OUT = "timed-out"
    DENIED = "denied"


class DropReason(StrEnum):
    """The reason why a packet was dropped: a fault of the packet, or a lack of room."""

    VERSION = "version"
    SHORT = "short"
    LENGTH = "length"
    CHECKSUM = "checksum"
    LAND = "land"
    SOURCE = "source"
    MULTICAST = "multicast"
    EXTENSIONS = "extensions"
    NO_NEXT_HEADER = "no-next-header"
    FRAGMENT = "fragment"
    PORT = "port"
    FLAGS = "flags"
    ICMP = "icmp"
    LATE_ECHO = "late-echo"
    LATE_DATAGRAM = "late-datagram"
    SYN_LIMIT = "syn-limit"
    ASSOCIATION_LIMIT = "association-limit"
    FRAGMENT_LIMIT = "fragment-limit"
    DESCRIPTORS = "descriptors"
    FLOW_DEVICE = "flow-device"
    CAPTURE_DEVICE = "capture-device"
    CLIENT = "client"
    DATAGRAM_LINK = "datagram-link"


class Outcome(StrEnum):
    """The result of a lookup at the far end."""

    FOUND = "found"
    NO_DATA = "no-data"
    NX_DOMAIN = "nxdomain"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


class DropCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How many packets were dropped for a reason."""

    reason: DropReason
    packets: int


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A flow that the client has: opened at the far end, and perhaps already accepted here."""

    flow: int
    key: bytes
    is_accepted: bool


# gate → client


class Started(Message, frozen=True, tag="started"):
    """The first message of each gate. The first gate is of generation 1.

    A later one knows no flows. The client answers with `Adopt` and then `Configure`. Requests of
    the gate before are void; numbers of flows and queries belong to one generation only.
    """

    generation: int


class Open(Message, frozen=True, tag="open"):
    """An application wants to connect. `host` is a name, or an address without a name.

    `key` is source and destination address and port in network order: 12 or 36 bytes.
    """

    SIZE: ClassVar[int] = 64 + MAX_KEY + MAX_NAME

    flow: int
    key: bytes
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
    """Asks for records of type `rtype` (RFC 1035 §3.2.2) that `name` has at the far end."""

    SIZE: ClassVar[int] = 64 + MAX_NAME_TEXT

    query: int
    name: str
    rtype: int


class Forward(Message, frozen=True, tag="forward"):
    """A DNS message for the resolver at `server`, to be asked outside the tunnel."""

    SIZE: ClassVar[int] = 128 + MAX_DNS_MESSAGE

    query: int
    server: bytes
    over_tcp: bool
    message: bytes


class Dropped(Message, frozen=True, tag="dropped"):
    """Packets that were dropped since the last `Dropped`; sent only if there are any."""

    SIZE: ClassVar[int] = 64 + 32 * len(DropReason)

    counts: tuple[DropCount, ...]


class PoolState(Message, frozen=True, tag="pool-state"):
    """The answer to `PoolWanted`. Of each family `slots` addresses may stand for names.

    `used` of them do, `pinned` are held by flows. `name` and `addresses` (4 and 16 bytes) belong
    together; `is_assigned` says that they already do. Both are empty where nothing is known.
    """

    SIZE: ClassVar[int] = 128 + MAX_NAME

    query: int
    slots: int
    used: int
    pinned: int
    name: str
    addresses: tuple[bytes, ...]
    is_assigned: bool


# client → gate


class Configure(Message, frozen=True, tag="configure"):
    """The settings of name resolution. Without `suffixes` every name is answered by the gate.

    Carries the gate's end of the link for datagrams (`shim.protocol.datagrams`), which replaces
    the one before.
    """

    SIZE: ClassVar[int] = 64 + MAX_SUFFIXES * (MAX_NAME + 4)
    FDS: ClassVar[int] = 1

    ask_far_end: bool
    suffixes: tuple[str, ...]


class Adopt(Message, frozen=True, tag="adopt"):
    """Flows of the gates before, oldest first, at most `MAX_KNOWN` at a time."""

    SIZE: ClassVar[int] = 64 + MAX_KNOWN * (16 + MAX_KEY)

    flows: tuple[Known, ...]


class Opened(Message, frozen=True, tag="opened"):
    """The far end has connected."""

    flow: int


class Refused(Message, frozen=True, tag="refused"):
    """The far end has not connected."""

    flow: int
    reason: Reason


class Closed(Message, frozen=True, tag="closed"):
    """The client is done with these accepted flows, at most `MAX_CLOSED` at a time."""

    SIZE: ClassVar[int] = 64 + 9 * MAX_CLOSED

    flows: tuple[int, ...]


class Copy(Message, frozen=True, tag="copy"):
    """Copy what passes the capture TUN into the socket that comes along (`shim.protocol.tap`).

    It replaces the one before.
    """

    FDS: ClassVar[int] = 1


class PoolWanted(Message, frozen=True, tag="pool-wanted"):
    """Asks what the pool has for `host`, a name or an address; nothing changes by that."""

    SIZE: ClassVar[int] = 64 + MAX_NAME

    query: int
    host: str


class LookedUp(Message, frozen=True, tag="looked-up"):
    """The answer to `Lookup`.

    `message` is empty where there are no records to tell: where it has failed, and of addresses,
    which are virtual. Else it is a DNS message about that name and type.
    """

    SIZE: ClassVar[int] = 64 + MAX_DNS_MESSAGE

    query: int
    outcome: Outcome
    message: bytes = b""


class Forwarded(Message, frozen=True, tag="forwarded"):
    """The answer to `Forward`; empty if there was none in time."""

    SIZE: ClassVar[int] = 64 + MAX_DNS_MESSAGE

    query: int
    message: bytes


FromGate = Started | Configured | Open | Cancel | Accepted | Lookup | Forward | PoolState | Dropped
ToGate = Configure | Adopt | Opened | Refused | Closed | Copy | PoolWanted | LookedUp | Forwarded

GATE: Final = role(ToGate)
CLIENT_OF_GATE: Final = role(FromGate)
