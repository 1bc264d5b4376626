"""The network of the machine, as those hold it who change it: two netlink sockets.

Theory of operation
-------------------
A netlink socket is of the network namespace in which it was opened, whoever uses it, and wherever
(netlink(7)). Under `sudo` the launcher opens both itself. As a service it is in a namespace of its
own (systemd.exec(5), PrivateNetwork=), which becomes the flow namespace, and cannot reach the
machine's: systemd opens the two there, and hands them over with the socket on which clients
connect (systemd.socket(5), ListenNetlink=). The kernel wants the capability of both, of who has
opened a socket and of who sends on it, so nobody is given one here who does not hold it.

From the socket comes the namespace (ioctl_ns(2), SIOCGSKNS): for the key of the state directory,
and for the way of the capture TUN, which is made here and moved there.

systemd keeps the sockets, and hands out the same ones at the next start. So the answers to a
process that was killed may still be in them. One process at a time asks: the launcher until it has
told the monitor to serve, and again when that has ended. Then it forgets them first.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from functools import cached_property
from typing import Final

from shim.netlink.common import NETLINK_NETFILTER, adopt
from shim.protocol.launcher import NETNS_COOKIE

SYSCALLS: Final = frozenset({"recvfrom"})
"""To forget."""

_SIOCGSKNS: Final = 0x894C
_MAX_BYTES: Final = 1 << 16


class Machine:
    """The two sockets, by descriptor."""

    def __init__(self, route: int, netfilter: int) -> None:
        self.route = route
        self.netfilter = netfilter
        self._route = adopt(route, socket.NETLINK_ROUTE)
        self._netfilter = adopt(netfilter, NETLINK_NETFILTER)

    @cached_property
    def netns(self) -> int:
        """A descriptor of their network namespace. Raises OSError."""
        return int(fcntl.ioctl(self._route, _SIOCGSKNS))

    @property
    def cookie(self) -> bytes:
        """What is the same for all sockets of it; empty where the kernel does not say."""
        with suppress(OSError):
            return self._route.getsockopt(socket.SOL_SOCKET, NETNS_COOKIE, 8)
        return b""

    @property
    def is_elsewhere(self) -> bool:
        """Whether we are in a network namespace of our own. Raises OSError."""
        return not os.path.samestat(os.fstat(self.netns), os.stat("/proc/self/ns/net"))

    @property
    def fds(self) -> set[int]:
        """What a process needs in order to change the network, and to forget."""
        return {self.route, self.netfilter, self._route.fileno(), self._netfilter.fileno()}

    def forget(self) -> None:
        """Drop the answers to whoever has asked before and was killed."""
        for sock in (self._route, self._netfilter):
            with suppress(BlockingIOError):
                while sock.recv(_MAX_BYTES, socket.MSG_DONTWAIT):
                    pass


def opened() -> Machine:
    """Return sockets of the network namespace in which we are. Raises OSError."""
    protocols = (socket.NETLINK_ROUTE, NETLINK_NETFILTER)
    kinds = ((socket.AF_NETLINK, socket.SOCK_RAW, protocol) for protocol in protocols)
    return Machine(*(socket.socket(*kind).detach() for kind in kinds))
