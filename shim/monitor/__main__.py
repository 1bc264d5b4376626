"""The composition root of the privileged side: `python -I -B -m shim.monitor`, link on fd 3.

Theory of operation
-------------------
In this order, in one thread, without exec:

 1. lock the state directory, undo what a killed instance left;
 2. with the privileges of the caller: make the flow namespace and the capture TUN;
 3. fork: the parent is the warden, the child the monitor, which forks the gate;
 4. each drops what it does not need: the warden and the monitor to CAP_NET_ADMIN, the gate to
    nothing; the monitor and the gate become a user that owns nothing.

The warden waits for the monitor and then undoes everything. Ending in order and being killed are
the same path. If the warden dies first, the monitor undoes instead. The gate dies with the
monitor, by the kernel's hand. So each of the three may be killed at any moment.

With the kill switch undoing is what the user asks for: it happens when the client has said `Down`,
and otherwise the rules and the filter stay, held by the kernel alone, until the next `up`, `down`
or `recover`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NoReturn

from shim import linux, privileges, protocol, tun
from shim.gate import process
from shim.monitor import flownet
from shim.monitor.netlink import Netlink
from shim.monitor.plan import TABLE, Family
from shim.monitor.service import Service, fault_of
from shim.monitor.state import BusyError, State
from shim.protocol import Failed, Fault, Link

LINK_FD: Final = 3

_FIRST_QUESTION_S: Final = 5.0

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
    flow: flownet.FlowNetwork
    capture: int
    control: socket.socket


class _RefusedError(Exception):
    def __init__(self, fault: Fault, error: int = 0) -> None:
        super().__init__(fault)
        self.message = Failed(fault, error)


def main() -> None:
    """Serve the client on descriptor 3, then leave nothing behind."""
    client = Link(socket.socket(fileno=LINK_FD), protocol.MONITOR)
    os.setsid()
    try:
        made = _make()
    except _RefusedError as refused:
        # It is the answer to whatever the client asks first.
        select.select([client], [], [], _FIRST_QUESTION_S)
        with suppress(protocol.LinkClosedError, protocol.ViolationError):
            client.receive()
            client.send(refused.message)
        return
    made.state.set_owner(os.getpid())
    warden_alive, warden_end = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        os.close(warden_end)
        _serve(client, made, warden_alive)
    keep = made.state.fds | {0, 1, 2, warden_end}
    linux.close_all_but(keep)
    privileges.drop(frozenset({privileges.NET_ADMIN}), os.geteuid())
    _guard(monitor, made.state)


def _make() -> _Made:
    try:
        state = State()
    except BusyError:
        raise _RefusedError(Fault.BUSY) from None
    except OSError as error:
        raise _RefusedError(Fault.NOT_PERMITTED, error.errno or 0) from error
    try:
        return _make_network(state)
    except _RefusedError:
        if not state.is_guarded:
            state.remove()
        raise


def _make_network(state: State) -> _Made:
    try:
        netlink = Netlink()
        if not state.is_guarded:
            state.undo(netlink)
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    try:
        capture = tun.create(protocol.DEVICE)
        flow = flownet.build()
    except OSError as error:
        raise _RefusedError(fault_of(error), error.errno or 0) from error
    try:
        families = _set_up(netlink)
        control = state.listen()
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    return _Made(state, netlink, families, flow, capture, control)


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


def _serve(client: Link, made: _Made, warden_alive: int) -> NoReturn:
    to_gate, at_gate = protocol.pair(protocol.CLIENT_OF_GATE, protocol.GATE)
    gate_stop, gate_end = os.pipe()
    pool = process.new_pool()
    gate = os.fork()
    if gate == 0:
        process.run(made.capture, made.flow.device, made.flow.listener, at_gate, pool, gate_stop)
    at_gate.close()
    os.close(gate_stop)
    status = _WITHOUT_DOWN
    try:
        privileges.drop(frozenset({privileges.NET_ADMIN}), privileges.identity())
        gate_alive = os.pidfd_open(gate)
        service = Service(client, made.state, made.netlink, made.families, to_gate, made.control)
        status = 0 if service.run(warden_alive, gate_alive) else _WITHOUT_DOWN
    finally:
        with suppress(ProcessLookupError):
            os.kill(gate, signal.SIGKILL)
        os.close(gate_end)
        if _is_readable(warden_alive):
            _undo(made.state, status)
        os._exit(status)


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _guard(monitor: int, state: State) -> NoReturn:
    status = os.waitstatus_to_exitcode(os.waitpid(monitor, 0)[1])
    try:
        _undo(state, status)
        status = 0
    except OSError as error:
        print(f"overlay-vpn: routing rules remain ({error}); run 'overlay-vpn recover' as root")
        status = 1
    os._exit(status)


def _undo(state: State, status: int) -> None:
    """Undo everything; with the kill switch only if the monitor has ended as it was asked to."""
    if status == 0 or not state.is_guarded:
        state.undo(Netlink())
        state.remove()


if __name__ == "__main__":
    main()
