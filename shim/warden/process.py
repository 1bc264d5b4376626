"""The composition root of the privileged side of `up`.

Theory of operation
-------------------
In this order, in one thread:

 0. as a service: wait for a client that the policy admits, before a byte of anybody is read;
 1. with the privileges of the caller: start the keeper of the gate and the monitor, the only
    programs that are run (`__main__.py`);
 2. lock the state directory, undo what a killed instance left;
 3. have the keeper make the devices, give them addresses and routes;
 4. give the monitor all that it needs: from then on it, and nobody else, reads what the client
    says;
 5. drop everything but CAP_NET_ADMIN. The monitor does the same and becomes a user that owns
    nothing; the keeper drops everything.

The warden then waits for the monitor, and undoes everything. Ending in order and being killed are
the same path. If the warden dies first, the monitor undoes instead. The monitor ends when the
keeper does, and the keeper when the monitor does or when the warden dies. So each of them may be
killed at any moment. Meanwhile whoever else connects is told that we are busy, and is not read.

With the kill switch undoing is what the user asks for: it happens when the client has said `Down`,
and otherwise the rules and the filter stay, held by the kernel alone, until the next `up`, `down`
or `recover`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from ipaddress import ip_address
from typing import Final

from shim import linux, protocol
from shim.interfaces import Interfaces
from shim.monitor import journal
from shim.monitor import netlink as routing
from shim.monitor.netlink import Netlink
from shim.monitor.plan import TABLE, Family
from shim.monitor.process import PROFILE as MONITOR_PROFILE
from shim.protocol.common import Failed, Fault
from shim.protocol.warden import Serve
from shim.sandbox import seccomp
from shim.sandbox.stages import NET_ADMIN, Profile, enter
from shim.warden import children, guard, peer
from shim.warden import state as files
from shim.warden.children import Keeper, Monitor
from shim.warden.state import BusyError, State

SYSCALLS: Final = (
    routing.SYSCALLS
    | journal.SYSCALLS_TO_UNDO
    | files.SYSCALLS_TO_REMOVE
    | peer.SYSCALLS
    | {"poll", "wait4"}
)

_FIRST_QUESTION_S: Final = 5.0
_EX_CONFIG: Final = 78

_NO_IPV6: Final = (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""How the kernel says that IPv6 is switched off on a device, or not there at all."""


class _RefusedError(Exception):
    def __init__(self, fault: Fault, error: int = 0) -> None:
        super().__init__(fault)
        self.message = Failed(fault, error)


def main(link: socket.socket, keeper: Keeper, monitor: Monitor) -> int:
    """Have the client of the link served, or one that connects to it; leave nothing behind.

    Returns the exit status if nobody is served.
    """
    try:
        admitted = peer.admit(link)
    except peer.PolicyError as error:
        children.end(monitor, keeper)
        print(f"overlay-vpn: {error}", file=sys.stderr)
        return _EX_CONFIG
    if admitted is None:
        children.end(monitor, keeper)
        return 0
    try:
        state = _begin(admitted, keeper, monitor)
    except _RefusedError as refused:
        children.end(monitor, keeper)
        _answer(admitted.client, refused.message)
        os._exit(0)  # the netlink library would complain of its end
    state.set_owner(os.getpid())
    others = admitted.others
    ended = os.pidfd_open(monitor.pid)
    kept = {0, 1, 2, monitor.fileno(), ended}
    linux.close_all_but(state.fds | kept | ({others.fileno()} if others else set()))
    netlink = Netlink()
    profile = Profile(
        SYSCALLS, frozenset({NET_ADMIN}), is_nobody=False, directories=state.directories
    )
    enter(profile, seccomp.assemble(SYSCALLS))
    if others:
        _turn_away(others, ended)
    os._exit(_undo(state, netlink, monitor, keeper))


def _answer(client: socket.socket, refusal: Failed) -> None:
    """Refuse when the client has asked for something, whatever that is."""
    select.select([client], [], [], _FIRST_QUESTION_S)
    peer.refuse(client, refusal)


def _begin(admitted: peer.Admitted, keeper: Keeper, monitor: Monitor) -> State:
    """Make what is to be made while it is allowed, and give it to the monitor."""
    try:
        state = State()
    except BusyError:
        raise _RefusedError(Fault.BUSY) from None
    except OSError as error:
        raise _RefusedError(Fault.NOT_PERMITTED, error.errno or 0) from error
    try:
        families, control = _make_network(state, keeper)
    except _RefusedError:
        if not state.journal.is_guarded:
            state.remove()
        raise
    filters = (guard.chains(lan=False), guard.chains(lan=True))
    program = seccomp.assemble(MONITOR_PROFILE.syscalls)
    given = (admitted.client, keeper.gate, control, state.journal, state.lock, keeper)
    fds = (one if isinstance(one, int) else one.fileno() for one in given)
    monitor.serve(Serve(families, admitted.policy.routes, filters, program), *fds)
    return state


def _make_network(state: State, keeper: Keeper) -> tuple[tuple[Family, ...], socket.socket]:
    try:
        if not state.journal.is_guarded:
            state.journal.undo(Netlink())
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    failed = keeper.make()
    if failed is not None:
        raise _RefusedError(failed.fault, failed.errno)
    try:
        return _set_up(Interfaces()), state.listen()
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error


def _set_up(interfaces: Interfaces) -> tuple[Family, ...]:
    """Give the capture TUN its addresses and routes; returns the families that the kernel has."""
    families: list[Family] = []
    wanted: tuple[tuple[Family, str], ...] = ((4, protocol.DEVICE4), (6, protocol.DEVICE6))
    for family, address in wanted:
        try:
            index = interfaces.set_up(protocol.DEVICE, (ip_address(address),))
            interfaces.add_default(index, TABLE, ip_address(address))
        except OSError as error:
            if family == 6 and error.errno in _NO_IPV6:
                continue
            raise
        interfaces.size(index)
        families.append(family)
    interfaces.close()
    return tuple(families)


def _turn_away(others: socket.socket, ended: int) -> None:
    """Tell whoever connects that we are busy, until the monitor has ended."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(others, select.POLLIN)
    while ended not in dict(poll.poll()):
        try:
            peer.refuse(others.accept()[0], Failed(Fault.BUSY, 0))
        except OSError:
            poll.unregister(others)  # without a descriptor left it would be ready for ever


def _undo(state: State, netlink: Netlink, monitor: Monitor, keeper: Keeper) -> int:
    """Wait for the end of the monitor; undo, unless the kill switch says that it is no end.

    Returns our exit status.
    """
    status = os.waitstatus_to_exitcode(os.waitpid(monitor.pid, 0)[1])
    try:
        if state.journal.undo_after(status, netlink):
            state.remove()
        status = 0
    except OSError as error:
        print(f"overlay-vpn: routing rules remain ({error}); run 'overlay-vpn recover' as root")
        status = 1
    os.waitpid(keeper.pid, 0)
    return status
