"""The listener of the flow namespace: accepted connections, for the client or for the resolver.

The kernel of the flow namespace ends the flows; an accepted socket is sent to the client and closed
here. Connections to port 53 are served here. Without a descriptor left, listening waits for the
next tick.
"""

from __future__ import annotations

import errno
import select
import socket
from dataclasses import dataclass
from typing import Final

from shim.gate.io.dns_tcp import DnsStreams
from shim.gate.io.executor import Executor
from shim.gate.wire import packet
from shim.gate.wire.fast_path import DNS_PORT
from shim.protocol.gate import DropReason

SYSCALLS: Final = frozenset({"accept4", "epoll_ctl", "getsockname", "ioctl"})

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
"""The start of an IPv4 address as IPv6 has it (RFC 4291 §2.5.5.2)."""


@dataclass(slots=True)
class Acceptor:
    """The listener, registered with `poll`; call `on_event` when it is ready."""

    poll: select.epoll
    listener: socket.socket
    streams: DnsStreams
    executor: Executor
    _is_paused: bool = False

    def on_event(self, now: float) -> None:
        """Accept a connection."""
        try:
            sock, peer = self.listener.accept()
        except OSError as error:
            self.executor.dropped[DropReason.DESCRIPTORS] += 1
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.poll.modify(self.listener, 0)  # it stays readable
                self._is_paused = True
            return
        own = sock.getsockname()
        if own[1] == DNS_PORT:
            self.streams.add(sock, _packed(own[0]), now)
            return
        key = packet.flow_key(_packed(peer[0]), _packed(own[0]), peer[1], own[1])
        router = self.executor.router
        self.executor.execute((router.on_accepted(key, sock.detach()),))

    def resume(self) -> None:
        """Watch the listener again, after it had run out of descriptors."""
        if self._is_paused:
            self.poll.modify(self.listener, select.EPOLLIN)
            self._is_paused = False


def _packed(host: str) -> bytes:
    """Return the address of a socket in network order; a dual-stack one has IPv4 mapped."""
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return address[12:] if address.startswith(_MAPPED) else address
