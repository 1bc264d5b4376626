"""The gate supervisor: keeps a gate running; when one dies, the next gets the same descriptors.

Theory of operation
-------------------
The supervisor holds the descriptors of a gate and reads none: both TUN devices, the listener of the
flow namespace, the gate's end of the link to the client, the memory of the pool. A gate that is
killed, or crashed by a packet, loses its tables and nothing else: packets wait in the devices,
connections in the listener, messages in the link, and flows live in the kernel.

A gate that exits with 0 has no client any more, and the supervisor ends too. It also ends when
gates die repeatedly as soon as they start, and when `link` ends, whose other end is held by the
process that owns the network. The kernel kills the gate with the supervisor (PR_SET_PDEATHSIG), and
the devices go with the last of the two.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

import prctl

from dns.pool import buffer_size
from shim import linux
from shim.exit import end_after
from shim.gate.process import gate as process
from shim.gate.process.flow_namespace import FlowNetwork
from shim.gate.process.gate import Memory
from shim.protocol.link import Link
from shim.sandbox import seccomp
from shim.sandbox.stages import Profile, enter

# fmt: off
SYSCALLS: Final = frozenset({
    "clone", "fcntl", "getpid", "getppid", "getrandom", "gettid", "pidfd_open",
    "pidfd_send_signal", "poll", "prctl", "rt_sigprocmask", "set_robust_list", "wait4",
})
# fmt: on
"""Those that start gates, and those of a gate before it is under its own filter.

fork(3) blocks signals in musl, and in glibc from 2.41.
"""

PROFILE: Final = Profile(SYSCALLS | process.SYSCALLS, may_fork=True)
"""All that the gate may do is allowed; the gate itself installs a narrower filter."""

MACHINE_ID: Final = "/etc/machine-id"

MAX_EARLY_DEATHS: Final = 5
EARLY_S: Final = 0.5


class Restarts:
    """Decides whether a gate that died is followed by another."""

    def __init__(self) -> None:
        self._early = 0

    def may_restart(self, lived_s: float) -> bool:
        """A gate has died after `lived_s`. False after `MAX_EARLY_DEATHS` early ones in a row."""
        self._early = self._early + 1 if lived_s < EARLY_S else 0
        return self._early < MAX_EARLY_DEATHS


@dataclass(frozen=True, slots=True)
class GateDescriptors:
    """The descriptors that every gate gets."""

    capture: int
    flow: FlowNetwork
    client: Link
    pool: Memory

    @property
    def fds(self) -> set[int]:
        """All of them, by number."""
        own = {self.capture, self.flow.device, self.pool.fd}
        return own | {self.flow.listener.fileno(), self.client.fileno()}

    def close(self) -> None:
        """Close all of them, in a process that only passes them on."""
        self.flow.listener.close()
        self.client.close()
        for fd in (self.capture, self.flow.device, self.pool.fd):
            os.close(fd)


def new_pool() -> Memory:
    """Return a memory file for the map of names; it never touches a disk (memfd_create(2))."""
    fd = os.memfd_create("overlay-vpn names", os.MFD_CLOEXEC)
    os.ftruncate(fd, buffer_size(process.SLOTS))
    return Memory(fd, pool_key(MACHINE_ID))


def pool_key(machine_id: str) -> bytes:
    """Return a key that is secret, and stable on this machine: applications cache addresses.

    It is derived from the machine's id, which must not be exposed as it is (machine-id(5)). Without
    one the key is random, and stays the same for as long as the supervisor lives.
    """
    secret = b""
    with suppress(OSError), open(machine_id, "rb") as file:
        secret = file.read(64).strip()
    if len(secret) != 32:  # absent, or "uninitialized"
        secret = os.urandom(32)
    return hashlib.blake2b(b"overlay-vpn names", key=secret).digest()


def run(given: GateDescriptors, link: socket.socket, *, has_network: bool = True) -> NoReturn:
    """Drop every privilege and keep a gate running until `link` ends.

    With `has_network` the process first moves to an empty network namespace; without, it is in one.
    """

    def work() -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        linux.close_all_but({0, 1, 2, link.fileno()} | given.fds)
        if has_network:
            linux.isolate()
        enter(PROFILE, seccomp.assemble(PROFILE.syscalls))
        # A parent that is gone already has closed its end of the link.
        prctl.set_pdeathsig(signal.SIGKILL)
        _keep(given, link)
        return 0

    end_after(work, "supervisor")


def _keep(given: GateDescriptors, link: socket.socket) -> None:
    restarts = Restarts()
    for generation in itertools.count(1):
        started = time.monotonic()
        gate = _start(given, link, generation)
        alive = os.pidfd_open(gate)
        poll = select.poll()
        poll.register(link, select.POLLIN)
        poll.register(alive, select.POLLIN)
        is_over = link.fileno() in dict(poll.poll())
        if is_over:
            signal.pidfd_send_signal(alive, signal.SIGKILL)
        _, status = os.waitpid(gate, 0)
        os.close(alive)
        if is_over or status == 0 or not restarts.may_restart(time.monotonic() - started):
            return


def _start(given: GateDescriptors, link: socket.socket, generation: int) -> int:
    supervisor = os.getpid()
    gate = os.fork()
    if gate == 0:
        prctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)
        link.close()
        flow = given.flow
        process.run(given.capture, flow.device, flow.listener, given.client, given.pool, generation)
    return gate
