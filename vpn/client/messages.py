"""Between the client of `run` and the command's parent: one packet before, one after."""

from __future__ import annotations

import socket
from contextlib import suppress

import msgspec

_MAX_PACKET = 65536


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The command may start, in the three namespaces that come along, or `problem` says why not.

    `search` are the domains in which its stub resolver looks for names.
    """

    problem: str
    search: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, tag=True):
    """All is written and ended: whether something was denied, and what went wrong at the end."""

    has_denied: bool
    problem: str


def send(link: socket.socket, message: Ready | Done, fds: tuple[int, ...] = ()) -> None:
    """Send a message, if the other side is still there."""
    with suppress(OSError):
        socket.send_fds(link, [msgspec.msgpack.encode(message)], fds)


def receive(link: socket.socket) -> tuple[Ready | Done | None, tuple[int, ...]]:
    """Return the next message and its descriptors; None at the end."""
    packet, fds, _, _ = socket.recv_fds(link, _MAX_PACKET, 3)
    if not packet:
        return None, ()
    message: Ready | Done = msgspec.msgpack.decode(packet, type=Ready | Done)
    return message, tuple(fds)
