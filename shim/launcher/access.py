"""The access policy of the shim as a service: `/etc/overlay-vpn/shim.toml`.

    users = ["alice", 1001]         root needs no entry; without a file there is root alone
    groups = ["overlay-vpn"]        by name or number, a peer's supplementary groups included
    routes = ["10.0.0.0/8"]         captured prefixes lie in one of these; default: everything

Theory of operation
-------------------
The file must be a regular file of root that nobody else may write, and is read once, before any
client is. A peer has the credentials that the kernel recorded when it connected (unix(7),
SO_PEERCRED and SO_PEERGROUPS): root of a user namespace has the user id outside of it, and a user
who is not mapped here has the overflow id, which is never permitted. A client that is refused gets
a message, and no byte that it has sent is read.

Port 53 of every resolver, and everything, may be captured only if `routes` covers every address.
"""

from __future__ import annotations

import grp
import os
import pwd
import select
import socket
import stat
import struct
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

import msgspec

from shim.monitor.plan import EVERYTHING
from shim.protocol.common import Failed, Fault

SYSCALLS: Final = frozenset({"accept4", "getsockname", "sendto"})
"""To turn away more clients while one is served."""

POLICY: Final = "/etc/overlay-vpn/shim.toml"
OVERFLOW: Final = 65534
"""A user or group without a number here (user_namespaces(7)), and `nobody`."""

_MAX_POLICY_BYTES: Final = 1 << 16
_UCRED: Final = struct.Struct("iII")
_SO_PEERGROUPS: Final = 59
_MAX_GROUPS: Final = 256
_PATIENCE_S: Final = 10.0


class PolicyError(Exception):
    """The policy file is unsafe or invalid. The text names the file and the fault."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    users: tuple[int | str, ...] = ()
    groups: tuple[int | str, ...] = ()
    routes: tuple[str, ...] = EVERYTHING


@dataclass(frozen=True, slots=True)
class Peer:
    """The credentials of the peer of a socket: its user id and all its group ids."""

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Policy:
    """The user and group ids that may use the shim, and the prefixes that they may capture."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    routes: tuple[str, ...] = EVERYTHING

    def admits(self, peer: Peer) -> bool:
        """Whether a peer may use the shim."""
        if peer.uid == OVERFLOW:
            return False
        known = peer.groups - {OVERFLOW}
        return peer.uid == 0 or peer.uid in self.users or bool(known & self.groups)


def parse(text: str, uid_of: Callable[[str], int], gid_of: Callable[[str], int]) -> Policy:
    """Return the policy in a text. Raises PolicyError; `uid_of` and `gid_of` raise KeyError."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
        return Policy(
            frozenset(uid_of(user) if isinstance(user, str) else user for user in file.users),
            frozenset(gid_of(group) if isinstance(group, str) else group for group in file.groups),
            tuple(str(ip_network(route)) for route in file.routes),
        )
    except (ValueError, KeyError, msgspec.MsgspecError) as error:
        raise PolicyError(f"cannot use {POLICY}: {error.args[0]}") from None


def read(path: str = POLICY) -> Policy:
    """Return the policy of this machine. Raises PolicyError."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
                raise PolicyError(f"{path} must be a file of root that nobody else may write")
            text = file.read(_MAX_POLICY_BYTES).decode()
    except FileNotFoundError:
        return Policy()
    except (OSError, ValueError) as error:
        raise PolicyError(f"cannot read {path}: {error}") from None
    return parse(
        text, lambda name: pwd.getpwnam(name).pw_uid, lambda name: grp.getgrnam(name).gr_gid
    )


def peer_of(sock: socket.socket) -> Peer:
    """Return the credentials of the process that connected a socket (unix(7))."""
    _, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    packed = b""
    with suppress(OSError):  # more of them than fit: they do not count
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    return Peer(uid, frozenset({gid, *memoryview(packed).cast("I")}))


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client with its policy, and the listener of a service; None under `sudo`."""

    client: socket.socket
    policy: Policy
    others: socket.socket | None = None


def admit(sock: socket.socket) -> Admitted | None:
    """Return the client: that of a connected socket, or the first permitted one of a listener.

    None if no permitted client connects in time. The wait keeps systemd from giving up on a shim
    that anybody can have started (systemd.unit(5), StartLimitBurst=). Raises PolicyError.
    """
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return Admitted(sock, Policy())
    sock.set_inheritable(False)
    sock.setblocking(False)
    try:
        policy = read()
    except PolicyError:
        with suppress(BlockingIOError):
            refuse(sock.accept()[0], Failed(Fault.POLICY, 0))
        raise
    while select.select([sock], [], [], _PATIENCE_S)[0]:
        client, _ = sock.accept()
        if policy.admits(peer_of(client)):
            return Admitted(client, policy, sock)
        refuse(client, Failed(Fault.POLICY, 0))
    return None


def refuse(client: socket.socket, refusal: Failed) -> None:
    """Send a client the reason why it is not served, without reading from it."""
    with client, suppress(OSError):  # it has gone; nothing has filled its queue
        client.send(msgspec.msgpack.encode(refusal))
