"""The two ways to create a link: as a pair, or from a descriptor that came with a message.

The monitor creates none, and does not load this.
"""

from __future__ import annotations

import os
import socket

from shim.protocol.link import Link, Role, ViolationError


def adopt(fd: int, role: Role) -> Link:
    """Return the link whose end came with a message. Raises ViolationError if it is no link."""
    try:
        # The type is not asked of the kernel: a wrong one shows at the first message.
        sock = socket.socket(-1, socket.SOCK_SEQPACKET, 0, fd)
    except OSError as error:
        os.close(fd)
        raise ViolationError("not a socket") from error
    if sock.family != socket.AF_UNIX:
        sock.close()
        raise ViolationError("not a link")
    return Link(sock, role)


def pair(first: Role, second: Role) -> tuple[Link, Link]:
    """Return the two ends of a new link: the one that is `first`, and the one that is `second`."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(one, first), Link(other, second)
