"""The launcher, composition root of the privileged side of `up`: the steps from start to end.

Theory of operation
-------------------
In this order, in one thread:

 0. with the privileges of the caller: start the monitor and the gate supervisor, the only
    programs that are run (`__main__.py`);
 1. as a service: undo what a killed instance left, and wait for a client that the policy admits,
    before a byte of anybody is read;
 2. lock the state directory, undo what a killed instance left;
 3. make the devices and the flow namespace, give them to the supervisor; give the capture TUN its
    addresses and routes, in the network of the machine (`host_network.py`);
 4. send the monitor its descriptors: from then on it alone reads the client's messages;
 5. drop everything but CAP_NET_ADMIN. The monitor does the same and changes to a user id that owns
    nothing; the supervisor drops everything.

The launcher then waits for the monitor, and undoes everything. Ending in order and being killed are
the same path. If the launcher dies first, the monitor undoes instead. The monitor ends when the
supervisor does, and the supervisor when the monitor does or when the launcher dies. So each of them
may be killed at any moment; and if all are, a service is started again (systemd.service(5),
Restart=). SIGTERM to the supervisor ends an instance. systemd sends it to all three; launcher and
monitor ignore it, or each might leave undoing to the other. Other clients that connect meanwhile
are refused as busy, without being read.

With the kill switch only the client's `Down` has everything undone. Otherwise the rules and the
filter stay, held by the kernel alone, until the next `up`, `down` or `recover`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from ipaddress import ip_address
from typing import Final

from shim import linux, protocol
from shim.gate.process import flow_namespace
from shim.gate.wire import tun
from shim.launcher import access, children, kill_switch
from shim.launcher import host_network as machines
from shim.launcher import state_directory as files
from shim.launcher.children import GateSupervisor, Monitor
from shim.launcher.host_network import HostNetwork
from shim.launcher.state_directory import BusyError, State
from shim.launcher.undo import undo
from shim.monitor import journal
from shim.monitor.process import PROFILE as MONITOR_PROFILE
from shim.netlink import kernel as routing
from shim.netlink.changes import TABLE, Family
from shim.netlink.kernel import Netlink
from shim.netlink.links import Interfaces
from shim.protocol.common import Failed, Fault
from shim.protocol.gate_supervisor import Keep
from shim.protocol.launcher import Serve
from shim.sandbox import seccomp
from shim.sandbox.stages import NET_ADMIN, Profile, enter

SYSCALLS: Final = (
    routing.SYSCALLS
    | journal.SYSCALLS_TO_UNDO
    | files.SYSCALLS_TO_REMOVE
    | access.SYSCALLS
    | machines.SYSCALLS
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


def main(
    link: socket.socket,
    supervisor: GateSupervisor,
    monitor: Monitor,
    machine: HostNetwork,
    *,
    is_service: bool,
) -> int:
    """Serve the client of the link, or the first that connects to it; undo everything afterwards.

    Returns the exit status if there is no client to serve.
    """
    machine.forget()
    if is_service:
        undo(machine, keep_kill_switch=True)
    try:
        admitted = access.admit(link)
    except access.PolicyError as error:
        children.end(monitor, supervisor)
        print(f"overlay-vpn: {error}", file=sys.stderr)
        return _EX_CONFIG
    if admitted is None:
        children.end(monitor, supervisor)
        return 0
    try:
        state = _begin(admitted, supervisor, monitor, machine)
    except _RefusedError as refused:
        children.end(monitor, supervisor)
        _answer(admitted.client, refused.message)
        os._exit(0)  # pyroute2 would complain at the exit of the interpreter
    state.set_owner(supervisor.pid)
    others = admitted.others
    ended = os.pidfd_open(monitor.pid)
    kept = {0, 1, 2, monitor.fileno(), ended}
    kept |= state.fds | machine.fds | ({others.fileno()} if others else set())
    linux.close_all_but(kept)
    netlink = Netlink(machine.route, machine.netfilter)
    profile = Profile(
        SYSCALLS, frozenset({NET_ADMIN}), is_nobody=False, directories=state.directories
    )
    enter(profile, seccomp.assemble(SYSCALLS))
    if others:
        _turn_away(others, ended)
    os._exit(_undo(state, machine, netlink, monitor, supervisor))


def _answer(client: socket.socket, refusal: Failed) -> None:
    """Refuse a client once its first message has come, or after `_FIRST_QUESTION_S`."""
    select.select([client], [], [], _FIRST_QUESTION_S)
    access.refuse(client, refusal)


def _begin(
    admitted: access.Admitted, supervisor: GateSupervisor, monitor: Monitor, machine: HostNetwork
) -> State:
    """Make devices, namespace and state while that is permitted; send them to the monitor."""
    try:
        state = State(machine.netns)
    except BusyError:
        raise _RefusedError(Fault.BUSY) from None
    except OSError as error:
        raise _RefusedError(Fault.NOT_PERMITTED, error.errno or 0) from error
    try:
        families, control = _make_network(state, supervisor, machine)
    except _RefusedError:
        if not state.journal.has_kill_switch:
            state.remove()
        raise
    filters = (kill_switch.chains(lan=False), kill_switch.chains(lan=True))
    program = seccomp.assemble(MONITOR_PROFILE.syscalls)
    given = (admitted.client, supervisor.gate, control, state.journal, state.lock, supervisor)
    fds = [one if isinstance(one, int) else one.fileno() for one in given]
    fds += [machine.route, machine.netfilter]
    # From here on the end of the supervisor ends us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monitor.serve(Serve(families, admitted.policy.routes, machine.cookie, filters, program), *fds)
    return state


def _make_network(
    state: State, supervisor: GateSupervisor, machine: HostNetwork
) -> tuple[tuple[Family, ...], socket.socket]:
    try:
        if not state.journal.has_kill_switch:
            state.journal.undo(Netlink(machine.route, machine.netfilter))
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error
    _make_devices(supervisor, has_flow_namespace=machine.is_elsewhere)
    try:
        if machine.is_elsewhere:
            Interfaces().move(protocol.DEVICE, machine.netns)
        return _set_up(Interfaces(machine.route)), state.listen()
    except OSError as error:
        raise _RefusedError(Fault.NETLINK, error.errno or 0) from error


def _make_devices(supervisor: GateSupervisor, *, has_flow_namespace: bool) -> None:
    """Make both devices, and the flow namespace if there is none; give them to the supervisor."""
    try:
        flow = flow_namespace.build(is_here=has_flow_namespace)
        capture = tun.create(protocol.DEVICE)
    except OSError as error:
        raise _RefusedError(_fault_of(error), error.errno or 0) from error
    fds = (capture, flow.device, flow.listener.fileno())
    is_kept = supervisor.keep(Keep(has_flow_namespace), *fds)
    os.close(capture)
    os.close(flow.device)
    flow.listener.close()
    if not is_kept:
        raise _RefusedError(Fault.GATE)


def _fault_of(error: OSError) -> Fault:
    if isinstance(error, PermissionError):
        return Fault.NOT_PERMITTED
    return Fault.NO_TUN if isinstance(error, FileNotFoundError) else Fault.NO_NAMESPACE


def _set_up(interfaces: Interfaces) -> tuple[Family, ...]:
    """Give the capture TUN addresses and routes. Returns the families that the kernel has."""
    interfaces.prepare(protocol.DEVICE)
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
        families.append(family)
    interfaces.close()
    return tuple(families)


def _turn_away(others: socket.socket, ended: int) -> None:
    """Refuse other clients as busy until the monitor has ended."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(others, select.POLLIN)
    while ended not in dict(poll.poll()):
        try:
            access.refuse(others.accept()[0], Failed(Fault.BUSY, 0))
        except OSError:
            poll.unregister(others)  # without a descriptor left it would be ready for ever


def _undo(
    state: State,
    machine: HostNetwork,
    netlink: Netlink,
    monitor: Monitor,
    supervisor: GateSupervisor,
) -> int:
    """Wait for the monitor, undo unless the kill switch is on; returns the exit status.

    Processes that wait for the end of an instance watch the state directory. So that goes last:
    after the devices, which go with the supervisor.
    """
    status = os.waitstatus_to_exitcode(os.waitpid(monitor.pid, 0)[1])
    machine.forget()
    try:
        is_over = state.journal.undo_after(status, netlink)
    except OSError as error:
        print(
            f"overlay-vpn: routing rules remain ({error}); run 'overlay-vpn recover' as root",
            file=sys.stderr,
        )
        return 1
    os.waitpid(supervisor.pid, 0)
    if is_over:
        state.remove()
    return 0
