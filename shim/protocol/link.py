"""A link between two processes: a socket that carries typed messages and descriptors.

Theory of operation
-------------------
A link is a `SOCK_SEQPACKET` Unix socket: one message is one packet, so nothing is framed and no
length is trusted. The messages are a closed set of msgspec structs, told apart by a tag. Each
type states the largest encoding it may have and the number of file descriptors it carries.
Whatever breaks a rule (unknown, oversized, wrong number of descriptors, not decodable) raises
`ViolationError`; descriptors that came with it are closed. The receiver drops the link: nothing is
guessed, nothing is skipped.

No payload of a flow ever crosses a link: the connected socket itself does (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A message of the closed set."""

    SIZE: ClassVar[int] = 64
    """The largest encoding in bytes."""

    FDS: ClassVar[int] = 0
    """The number of file descriptors that come with it."""


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


SYSCALLS: Final = frozenset({"recvmsg", "sendmsg", "sendto"})

_encode = msgspec.msgpack.Encoder().encode
_FULL: Final = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
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

        Returns False when the peer does not read fast enough, or too many descriptors of this
        user are on their way (unix(7), ETOOMANYREFS): nothing was sent. Raises LinkClosedError
        when it is gone.
        """
        try:
            if fds:
                socket.send_fds(self._sock, [_encode(message)], fds)
            else:
                self._sock.send(_encode(message))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _FULL:
                return False
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
        except ConnectionResetError:
            # Reported once if the peer closed without reading everything; its messages follow.
            return self.receive()
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
