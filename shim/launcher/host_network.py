"""The network of the machine, as two netlink sockets: one for routes, one for netfilter.

Theory of operation
-------------------
A netlink socket belongs to the network namespace in which it was opened, whichever process uses it
(netlink(7)). Under `sudo` the launcher opens both itself. As a service it is in a namespace of its
own (systemd.exec(5), PrivateNetwork=), which becomes the flow namespace, and cannot reach the
machine's: systemd opens the two there, and hands them over with the socket on which clients
connect (systemd.socket(5), ListenNetlink=). The kernel checks CAP_NET_ADMIN of both the opener and
the sender of a netlink socket, so passing one grants nothing to an unprivileged process.

The namespace is found by the socket (ioctl_ns(2), SIOCGSKNS): it names the state directory, and the
capture TUN, which is created here, is moved there.

systemd keeps the sockets and passes the same ones at the next start, so answers to a process that
was killed may still be in them. One process at a time sends requests: the launcher until the
monitor serves, and again after the monitor has ended; it drops old answers first.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from functools import cached_property
from typing import Final

from shim.netlink.wrapper import NETLINK_NETFILTER, adopt
from shim.protocol.launcher import NETNS_COOKIE

SYSCALLS: Final = frozenset({"recvfrom"})
"""For `HostNetwork.forget`."""

_SIOCGSKNS: Final = 0x894C
_MAX_BYTES: Final = 1 << 16


class HostNetwork:
    """The two netlink sockets of the machine, by descriptor; they stay open."""

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
        """The cookie of that namespace (socket(7), SO_NETNS_COOKIE); empty before Linux 5.14."""
        with suppress(OSError):
            return self._route.getsockopt(socket.SOL_SOCKET, NETNS_COOKIE, 8)
        return b""

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process is in another network namespace. Raises OSError."""
        return not os.path.samestat(os.fstat(self.netns), os.stat("/proc/self/ns/net"))

    @property
    def fds(self) -> set[int]:
        """The descriptors that `forget` and changes of the network need."""
        return {self.route, self.netfilter, self._route.fileno(), self._netfilter.fileno()}

    def forget(self) -> None:
        """Drop answers to requests of a process that was killed."""
        for sock in (self._route, self._netfilter):
            with suppress(BlockingIOError):
                while sock.recv(_MAX_BYTES, socket.MSG_DONTWAIT):
                    pass


def opened() -> HostNetwork:
    """Open both sockets in the current network namespace. Raises OSError."""
    protocols = (socket.NETLINK_ROUTE, NETLINK_NETFILTER)
    kinds = ((socket.AF_NETLINK, socket.SOCK_RAW, protocol) for protocol in protocols)
    return HostNetwork(*(socket.socket(*kind).detach() for kind in kinds))
