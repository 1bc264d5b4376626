"""The flow namespace: a network with one device, in which the kernel terminates captured flows.

Theory of operation
-------------------
A child makes a user and a network namespace of its own, in which it has every capability and which
is connected to nothing: `lo` and the flow TUN are its only links. All TCP that comes in on the TUN
is diverted to one transparent dual-stack listener; the address of an accepted socket is the
destination that the application wanted. The child sends two descriptors to its parent and exits;
they keep the namespace alive, and it dies with them.

Where user namespaces are closed, a privileged caller gets a plain network namespace. A service
has an empty one already, in which it was started; there the child makes none.

Nothing here depends on rp_filter: whatever comes in on the TUN has its way back there, by the
default route, so that the strict check passes too. It is off only where /proc can be written.

Source: Documentation/networking/tproxy.rst, user_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from shim import linux
from shim.gate.wire import tun
from shim.protocol import GATEWAY4, GATEWAY6

FLOW_DEVICE: Final = "flow0"
IP_TRANSPARENT: Final = 19
IPV6_TRANSPARENT: Final = 75

_GATEWAYS: Final = (GATEWAY4, GATEWAY6)
_LISTENER_PORT: Final = 7200
_LOCAL_TABLE: Final = 100
_MAIN_TABLE: Final = 254
_BACKLOG: Final = 4096

_SYSCTLS: Final = {
    "net/ipv4/conf/all/rp_filter": "0",
    f"net/ipv4/conf/{FLOW_DEVICE}/rp_filter": "0",
    "net/ipv4/tcp_rmem": "4096 131072 16777216",
    "net/ipv4/tcp_wmem": "4096 131072 16777216",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/tcp_congestion_control": "cubic",
}
"""The buffers bound the speed of a flow; nothing is paced, or remembered of flows before."""


@dataclass(frozen=True, slots=True)
class FlowNetwork:
    """The descriptors that keep a flow namespace: its TUN and its transparent listener."""

    device: int
    listener: socket.socket


def build(*, is_here: bool = False) -> FlowNetwork:
    """Make a flow namespace; `is_here` sets up the current network instead. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _build_and_exit(theirs, is_here=is_here)
    theirs.close()
    try:
        report, fds, _, _ = socket.recv_fds(ours, 4, 2)
    finally:
        ours.close()
        os.waitpid(child, 0)
    (failure,) = struct.unpack("!i", report) if len(report) == 4 else (errno.EIO,)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return FlowNetwork(fds[0], socket.socket(fileno=fds[1]))


def _build_and_exit(report: socket.socket, *, is_here: bool) -> None:
    try:
        if not is_here:
            _enter()
        device, listener = _set_up()
        socket.send_fds(report, [struct.pack("!i", 0)], [device, listener.fileno()])
    except OSError as error:
        report.send(struct.pack("!i", error.errno or errno.EIO))
    finally:
        os._exit(0)


def _enter() -> None:
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
    except OSError as closed:
        try:
            linux.unshare(linux.CLONE_NEWNET)
        except OSError:
            raise closed from None


def _set_up() -> tuple[int, socket.socket]:
    # pyroute2 is large, and the process that reads packets never needs it.
    from shim.netlink.links import Interfaces, divert_tcp, families

    device = tun.create(FLOW_DEVICE)
    interfaces = Interfaces()
    loopback = interfaces.set_up("lo", ())
    here = families()
    addresses = tuple(one for one in map(ip_address, _GATEWAYS) if one.version in here)
    interfaces.prepare(FLOW_DEVICE)
    index = interfaces.set_up(FLOW_DEVICE, addresses)
    for address in addresses:
        interfaces.add_default(index, _MAIN_TABLE, address)
    interfaces.deliver_locally(loopback, _LOCAL_TABLE)
    interfaces.close()
    for name, value in _SYSCTLS.items():
        # A read-only /proc costs speed, not correctness.
        with suppress(OSError), open(f"/proc/sys/{name}", "w") as file:
            file.write(value)
    family = socket.AF_INET6 if 6 in here else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    listener.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    listener.bind(("", _LISTENER_PORT))
    listener.listen(_BACKLOG)
    divert_tcp(_LISTENER_PORT)
    return device, listener
