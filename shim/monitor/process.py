"""The composition root of the privileged side of `up`.

Theory of operation
-------------------
In this order, in one thread:

 0. as a service: wait for a client that the policy admits, before a byte of anybody is read;
 1. with the privileges of the caller: start the keeper of the gate, the only program that is run;
 2. lock the state directory, undo what a killed instance left;
 3. have the keeper make the devices, give them addresses and routes;
 4. fork: the parent is the warden, the child the monitor;
 5. each drops what it does not need: both to CAP_NET_ADMIN, the monitor to a user that owns
    nothing. The keeper drops everything.

The warden waits for the monitor and then undoes everything. Ending in order and being killed are
the same path. If the warden dies first, the monitor undoes instead. The monitor ends when the
keeper does, and the keeper when the monitor does or when the warden dies. So each of them may be
killed at any moment.

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
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NoReturn

from shim import linux, protocol
from shim.monitor import netlink as routing
from shim.monitor import peer
from shim.monitor import service as serving
from shim.monitor import state as files
from shim.monitor.keeper import Keeper
from shim.monitor.netlink import Netlink
from shim.monitor.plan import TABLE, Family
from shim.monitor.service import Service
from shim.monitor.state import BusyError, State
from shim.protocol import link as links
from shim.protocol.common import Failed, Fault
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.protocol.monitor import MONITOR
from shim.sandbox.stages import NET_ADMIN, Profile, enter

_NET_ADMIN: Final = frozenset({NET_ADMIN})
_UNDO: Final = routing.SYSCALLS | files.SYSCALLS_TO_UNDO

MONITOR_PROFILE: Final = Profile(
    _UNDO | files.SYSCALLS_TO_RECORD | serving.SYSCALLS | links.SYSCALLS | peer.SYSCALLS,
    _NET_ADMIN,
)
WARDEN_SYSCALLS: Final = _UNDO | files.SYSCALLS_TO_REMOVE | {"wait4"}

_FIRST_QUESTION_S: Final = 5.0
_EX_CONFIG: Final = 78

_WITHOUT_DOWN: Final = 3
"""The exit status of a monitor whose client has gone without a word."""

_NO_IPV6: Final = (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""How the kernel says that IPv6 is switched off on a device, or not there at all."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made while it was allowed."""

    state: State
    netlink: Netlink
    families: tuple[Family, ...]
    control: socket.socket


class _RefusedError(Exception):
    def __init__(self, fault: Fault, error: int = 0) -> None:
        super().__init__(fault)
        self.message = Failed(fault, error)


def main(link: socket.socket, keeper: Keeper) -> None:
    """Serve the client of the link, or one that connects to it, then leave nothing behind."""
    with suppress(PermissionError):  # systemd has done it
        os.setsid()
    os.umask(0o022)
    try:
        admitted = peer.admit(link)
    except peer.PolicyError as error:
        keeper.end()
        print(f"overlay-vpn: {error}", file=sys.stderr)
        sys.exit(_EX_CONFIG)
    if admitted is None:
        keeper.end()
        return
    client = Link(admitted.client, MONITOR)
    try:
        made = _make(keeper)
    except _RefusedError as refused:
        keeper.end()
        # It is the answer to whatever the client asks first.
        select.select([client], [], [], _FIRST_QUESTION_S)
        with suppress(LinkClosedError, ViolationError):
            client.receive()
            client.send(refused.message)
        return
    made.state.set_owner(os.getpid())
    warden_alive, warden_end = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        os.close(warden_end)
        _serve(client, admitted, made, keeper, warden_alive)
    linux.close_all_but(made.state.fds | {0, 1, 2, warden_end})
    netlink = Netlink()
    directories = made.state.directories
    enter(Profile(WARDEN_SYSCALLS, _NET_ADMIN, is_nobody=False, directories=directories))
    _guard(monitor, keeper, made.state, netlink)


def _make(keeper: Keeper) -> _Made:
    try:
        state = State()
    except BusyError:
        raise _RefusedError(Fault.BUSY) from None
    except OSError as error:
        raise _RefusedError(Fault.NOT_PERMITTED, error.errno or 0) from error
    try:
        return _make_network(state, keeper)
    except _RefusedError:
        if not state.is_guarded:
            state.remove()
        raise


def _make_network(state: State, keeper: Keeper) -> _Made:
    try:
        netlink = Netlink()
        if not state.is_guarded:
            state.undo(netlink)
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    failed = keeper.make()
    if failed is not None:
        raise _RefusedError(failed.fault, failed.errno)
    try:
        families = _set_up(netlink)
        control = state.listen()
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    return _Made(state, netlink, families, control)


def _set_up(netlink: Netlink) -> tuple[Family, ...]:
    """Give the capture TUN its addresses and routes; returns the families that the kernel has."""
    families: list[Family] = []
    wanted: tuple[tuple[Family, str], ...] = ((4, protocol.DEVICE4), (6, protocol.DEVICE6))
    for family, address in wanted:
        try:
            index = netlink.set_up(protocol.DEVICE, (ip_address(address),))
            netlink.add_default(index, TABLE, ip_address(address))
        except OSError as error:
            if family == 6 and error.errno in _NO_IPV6:
                continue
            raise
        netlink.size(index)
        families.append(family)
    return tuple(families)


def _serve(
    client: Link, admitted: peer.Admitted, made: _Made, keeper: Keeper, warden_alive: int
) -> NoReturn:
    status = _WITHOUT_DOWN
    try:
        missing = enter(MONITOR_PROFILE)
        state, netlink = made.state, made.netlink
        families, control = made.families, made.control
        service = Service(
            client,
            state,
            netlink,
            families,
            keeper.gate,
            control,
            missing,
            admitted.policy,
            admitted.others,
        )
        if service.run(warden_alive, keeper.fileno()):
            status = 0
    except Exception as error:  # the last line of a process without a caller
        print(f"overlay-vpn monitor: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        if _is_readable(warden_alive):
            _undo(made.state, made.netlink, status)
        sys.stderr.flush()
        os._exit(status)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _guard(monitor: int, keeper: Keeper, state: State, netlink: Netlink) -> NoReturn:
    status = os.waitstatus_to_exitcode(os.waitpid(monitor, 0)[1])
    try:
        if _undo(state, netlink, status):
            state.remove()
        status = 0
    except OSError as error:
        print(f"overlay-vpn: routing rules remain ({error}); run 'overlay-vpn recover' as root")
        status = 1
    keeper.wait()
    os._exit(status)


def _undo(state: State, netlink: Netlink, status: int) -> bool:
    """Undo everything; with the kill switch only if the monitor has ended as it was asked to.

    Returns whether it has.
    """
    is_over = status == 0 or not state.is_guarded
    if is_over:
        state.undo(netlink)
    return is_over
