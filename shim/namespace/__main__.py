"""`python -I -B -m shim.namespace`, link on fd 3: namespaces for one command, made by its own user.

Theory of operation
-------------------
No privilege is needed and none is left: a user namespace gives every right inside itself, and
after set-up all of them are given away. In this order, each step by doing it, since nothing else
tells whether the kernel allows it:

 1. new user, mount and network namespaces, in which the user keeps its own ids;
 2. the mounts (`mounts.py`);
 3. the capture TUN with the default routes, the flow namespace, the gate supervisor;
 4. everything is given away, and the namespaces go to the client, which starts the command.

It then waits, and makes sockets inside the namespace for ports that are published. It ends with
the client or the supervisor; a namespace without a gate leads nowhere.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from shim import linux, protocol
from shim.exit import end_after
from shim.gate.process import flow_namespace, supervisor
from shim.gate.wire import tun
from shim.namespace import mounts
from shim.netlink.links import Interfaces, families
from shim.protocol import link
from shim.protocol.common import Failed, Fault, Hello, Missing
from shim.protocol.gate import CLIENT_OF_GATE, GATE
from shim.protocol.handover import pair
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.protocol.namespace import NAMESPACE, InnerSocket, InnerSocketWanted, Namespace
from shim.sandbox import seccomp
from shim.sandbox.stages import Profile, enter

SYSCALLS: Final = frozenset({"poll", "socket"})
PROFILE: Final = Profile(SYSCALLS | link.SYSCALLS, is_nobody=False)

LINK_FD: Final = 3
MASK_BUS: Final = "OVERLAY_VPN_MASK_BUS"
"""The one setting, in the environment, because the set-up comes before the first message."""

_MAIN_TABLE: Final = 254
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class _RefusedError(Exception):
    def __init__(self, fault: Fault, error: OSError) -> None:
        super().__init__(fault)
        self.message = Failed(fault, error.errno or 0)


def main() -> int:
    """Set up, and serve the client until it goes. Returns the exit status."""
    linux.close_all_but({0, 1, 2, LINK_FD})  # what a caller has left open
    client = Link(socket.socket(fileno=LINK_FD), NAMESPACE)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        gate, alive = _set_up(mask_bus=os.environ.get(MASK_BUS) == "1")
    except _RefusedError as refused:
        select.select([client], [], [], 30.0)
        with suppress(LinkClosedError, ViolationError):
            client.receive()
            client.send(refused.message)
        return 0
    kinds = ("user", "mnt", "net")
    spaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    missing = enter(PROFILE, seccomp.assemble(PROFILE.syscalls))
    with suppress(LinkClosedError, ViolationError):
        _serve(client, gate, spaces, alive, missing)
    return 0


def _set_up(*, mask_bus: bool) -> tuple[Link, socket.socket]:
    uid, gid = os.geteuid(), os.getegid()
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWNET)
        _map_ids(uid, gid)
    except OSError as error:
        raise _RefusedError(Fault.NO_NAMESPACE, error) from error
    try:
        mounts.prepare(mask_bus=mask_bus)
    except OSError as error:
        is_whole = error.errno in (errno.EPERM, errno.EACCES) and error.filename == "/"
        raise _RefusedError(Fault.RESTRICTED if is_whole else Fault.MOUNT, error) from error
    try:
        capture = tun.create(protocol.DEVICE)
    except OSError as error:
        raise _RefusedError(_tun_fault(error), error) from error
    try:
        _route()
        flow = flow_namespace.build()
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error) from error
    return _start_supervisor(capture, flow)


def _tun_fault(error: OSError) -> Fault:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Fault.NO_TUN
    return Fault.TUN_CLOSED


def _map_ids(uid: int, gid: int) -> None:
    """Map the own ids; files of all others belong to the overflow id (user_namespaces(7))."""
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _route() -> None:
    interfaces = Interfaces()
    interfaces.set_up("lo", ())
    interfaces.prepare(protocol.DEVICE)
    for address in map(ip_address, (protocol.DEVICE4, protocol.DEVICE6)):
        if address.version not in families():
            continue
        index = interfaces.set_up(protocol.DEVICE, (address,))
        interfaces.add_default(index, _MAIN_TABLE, address)
    interfaces.close()


def _start_supervisor(capture: int, flow: flow_namespace.FlowNetwork) -> tuple[Link, socket.socket]:
    """Return the client's link to the gate, and a socket that ends with the supervisor."""
    to_gate, at_gate = pair(CLIENT_OF_GATE, GATE)
    alive, link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given = supervisor.GateDescriptors(capture, flow, at_gate, supervisor.new_pool())
    if os.fork() == 0:
        supervisor.run(given, link)
    link.close()
    given.close()
    return to_gate, alive


def _serve(
    client: Link, gate: Link, spaces: list[int], alive: socket.socket, missing: tuple[Missing, ...]
) -> None:
    poll = select.poll()
    poll.register(client, select.POLLIN)
    poll.register(alive, select.POLLIN)
    while alive.fileno() not in dict(poll.poll()):
        received = client.receive()
        if received is None:
            continue
        match received[0]:
            case Hello(protocol.VERSION):
                client.send(Namespace(protocol.VERSION, missing), (gate.fileno(), *spaces))
                gate.close()
                for space in spaces:
                    os.close(space)
            case InnerSocketWanted(family):
                with socket.socket(_FAMILIES[family], socket.SOCK_STREAM) as sock:
                    client.send(InnerSocket(), (sock.fileno(),))
            case _:
                return


if __name__ == "__main__":
    end_after(main, "namespace")
