"""The messages between client, gate and monitor, and the link that carries them.

Theory of operation
-------------------
A link is a `SOCK_SEQPACKET` Unix socket: one message is one packet, so nothing is framed and no
length is trusted. The messages are a closed set of msgspec structs, told apart by a tag. Beside
each type stands the largest encoding it may have and the number of file descriptors it carries.
Whatever breaks a rule (unknown, oversized, wrong number of descriptors, not decodable) raises
`ViolationError`; descriptors that came with it are closed. The receiver drops the link: nothing is
guessed, nothing is skipped.

No payload of a flow ever crosses a link: the connected socket itself does (unix(7), SCM_RIGHTS).

This is the only module of `shim` that `vpn` may import.
"""

from __future__ import annotations

import array
import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal

import msgspec

VERSION: Final = 1

MAX_PREFIXES: Final = 512
MAX_SUFFIXES: Final = 256
MAX_DNS_MESSAGE: Final = 65535
MAX_NAME: Final = 253
MAX_CLOSED: Final = 256

POOL4: Final = "198.18.0.0/15"
"""Virtual IPv4 addresses of names: the benchmarking range of RFC 2544, never routed."""

POOL6: Final = "fd6f:7670:6e00::/64"
"""Virtual IPv6 addresses of names: a unique local prefix (RFC 4193) that leaves no machine."""

GATEWAY4: Final = "198.18.0.1"
GATEWAY6: Final = "fd6f:7670:6e00::1"
"""The gate's own addresses: the source of its ICMP errors, and a resolver."""

DEVICE4: Final = "198.18.0.2"
DEVICE6: Final = "fd6f:7670:6e00::2"
"""The addresses of the capture TUN, the source of captured flows."""


RUN_DIRECTORY: Final = "/run/overlay-vpn"
DEVICE: Final = "ovpn0"


def state_directory() -> str:
    """Return where the state of this network namespace lives: one instance per namespace."""
    return f"{RUN_DIRECTORY}/net-{os.stat('/proc/self/ns/net').st_ino}"


CONTROL: Final = "client.sock"
"""In the state directory: where the client answers `status` and `down`."""

LOCK: Final = "lock"
"""In the state directory: locked (flock(2)) while an instance runs; holds its process id."""


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


class Fault(StrEnum):
    """Why the monitor could not do what it was asked."""

    NO_TUN = "no-tun"
    NOT_PERMITTED = "not-permitted"
    NO_NAMESPACE = "no-namespace"
    RESTRICTED = "restricted"
    TUN_CLOSED = "tun-closed"
    MOUNT = "mount"
    BUSY = "busy"
    NETLINK = "netlink"
    LIMIT = "limit"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A message of the closed set."""

    SIZE: ClassVar[int] = 64
    """The largest encoding in bytes."""

    FDS: ClassVar[int] = 0
    """The number of file descriptors that come with it."""


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An address prefix: 4 or 16 bytes in network order, and its length in bits."""

    address: bytes
    length: int


# client → monitor


class Hello(Message, frozen=True, tag="hello"):
    """The first message of a client."""

    version: int


class OuterSocketWanted(Message, frozen=True, tag="outer-socket-wanted"):
    """Asks for a socket whose packets leave beside the tunnel. `family` is 4 or 6."""

    family: Literal[4, 6]
    kind: Literal["tcp", "udp"]


class Capture(Message, frozen=True, tag="capture"):
    """Route these through the tunnel. `everything` means both default routes.

    `names` captures port 53 of every resolver, whatever its address.
    """

    SIZE: ClassVar[int] = 64 + 32 * MAX_PREFIXES

    everything: bool
    names: bool
    prefixes: tuple[Prefix, ...]


class Down(Message, frozen=True, tag="down"):
    """Take everything down. The monitor exits; the link closes when it is done."""


# monitor → client


class Welcome(Message, frozen=True, tag="welcome"):
    """The monitor is ready. Carries the link to the gate and the listener of the client."""

    FDS: ClassVar[int] = 2

    version: int
    device: str


class OuterSocket(Message, frozen=True, tag="outer-socket"):
    """A marked socket, neither bound nor connected."""

    FDS: ClassVar[int] = 1


class Captured(Message, frozen=True, tag="captured"):
    """The routes are in place."""


class Failed(Message, frozen=True, tag="failed"):
    """The last request was not carried out, and nothing of it remains. `errno` may be 0."""

    fault: Fault
    errno: int


# namespace → client


class Namespace(Message, frozen=True, tag="namespace"):
    """The namespace of a command is ready.

    Carries the link to its gate, and its user, mount and network namespace.
    """

    FDS: ClassVar[int] = 4

    version: int


class InnerSocketWanted(Message, frozen=True, tag="inner-socket-wanted"):
    """Asks for a TCP socket inside the namespace. `family` is 4 or 6."""

    family: Literal[4, 6]


class InnerSocket(Message, frozen=True, tag="inner-socket"):
    """A TCP socket inside the namespace, neither bound nor connected."""

    FDS: ClassVar[int] = 1


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


ToMonitor = Hello | OuterSocketWanted | Capture | Down
FromMonitor = Welcome | OuterSocket | Captured | Failed
ToNamespace = Hello | InnerSocketWanted
FromNamespace = Namespace | InnerSocket | Failed
FromGate = Configured | Open | Cancel | Accepted | Lookup | Forward
ToGate = Configure | Opened | Refused | Closed | LookedUp | Forwarded


class ViolationError(Exception):
    """The peer broke a rule of the protocol. The link must be dropped."""


class LinkClosedError(Exception):
    """The peer is gone."""


@dataclass(frozen=True, slots=True)
class Role:
    """One side of a link: what it may receive."""

    decoder: msgspec.msgpack.Decoder[Any]
    largest: int
    fds: int


def role(receives: Any) -> Role:
    """Return the side of a link that receives the types of the union `receives`."""
    types: tuple[type[Message], ...] = getattr(receives, "__args__", (receives,))
    return Role(
        msgspec.msgpack.Decoder(receives),
        max(message.SIZE for message in types),
        max(message.FDS for message in types),
    )


MONITOR: Final = role(ToMonitor)
CLIENT_OF_MONITOR: Final = role(FromMonitor)
NAMESPACE: Final = role(ToNamespace)
CLIENT_OF_NAMESPACE: Final = role(FromNamespace)
GATE: Final = role(ToGate)
CLIENT_OF_GATE: Final = role(FromGate)

_encode = msgspec.msgpack.Encoder().encode
_FD_BYTES: Final = array.array("i").itemsize


class Link:
    """One end of a link. The socket is non-blocking and belongs to the link."""

    __slots__ = ("_role", "_sock")

    def __init__(self, sock: socket.socket, role: Role) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._role = role

    def fileno(self) -> int:
        """Return the descriptor, for select(2) and its kin."""
        return self._sock.fileno()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> bool:
        """Send one message; the descriptors stay the caller's.

        Returns False when the peer does not read fast enough: nothing was sent. Raises
        LinkClosedError when it is gone.
        """
        try:
            if fds:
                socket.send_fds(self._sock, [_encode(message)], fds)
            else:
                self._sock.send(_encode(message))
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkClosedError(error.strerror) from error
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors, or None if there is none now.

        Raises ViolationError, or LinkClosedError at the end.
        """
        role = self._role
        room = socket.CMSG_SPACE((role.fds + 1) * _FD_BYTES)
        try:
            data, control, flags, _ = self._sock.recvmsg(
                role.largest + 1, room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkClosedError(error.strerror) from error
        fds = _descriptors(control) if control else []
        try:
            return self._checked(data, len(fds), flags), fds
        except (ViolationError, LinkClosedError):
            for fd in fds:
                os.close(fd)
            raise

    def _checked(self, data: bytes, fds: int, flags: int) -> Message:
        if not data:
            # An empty packet and the end look alike; neither is a message.
            raise LinkClosedError("end of link")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ViolationError("message or descriptors too large")
        try:
            message: Message = self._role.decoder.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ViolationError("not a message of this link") from error
        if len(data) > message.SIZE:
            raise ViolationError("message larger than its type allows")
        if fds != message.FDS:
            raise ViolationError("wrong number of descriptors")
        return message

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(fds)


def pair(first: Role, second: Role) -> tuple[Link, Link]:
    """Return the two ends of a new link: the one that is `first`, and the one that is `second`."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(one, first), Link(other, second)
