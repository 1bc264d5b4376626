"""The gate as a process: what it keeps, what it gives away, and when it ends."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NoReturn

import prctl

from dns.pool import Pool, buffer_size
from shim import linux, privileges
from shim.gate.loop import Gate
from shim.gate.names import Names
from shim.protocol import POOL4, POOL6, Link, LinkClosedError, ViolationError

SLOTS: Final = 65536
"""How many names can have an address at a time."""

_POOL_KEY: Final = b"overlay-vpn"
"""Fixed, so that a name has the same address after a restart: applications cache addresses."""


def run(
    capture: int, flow: int, listener: socket.socket, client: Link, pool: int, stop: int
) -> NoReturn:
    """Become the gate in a forked child. Ends with the client, or when `stop` becomes readable."""
    status = 1
    try:
        parent = os.getppid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        linux.close_all_but(
            {0, 1, 2, capture, flow, listener.fileno(), client.fileno(), pool, stop}
        )
        privileges.isolate()
        privileges.drop(frozenset(), privileges.identity())
        prctl.set_pdeathsig(signal.SIGKILL)  # a change of credentials undoes it, so it comes last
        if os.getppid() == parent:
            names = Names(_open_pool(pool))
            Gate(capture, flow, listener, client, names).run(stop)
        status = 0
    except (LinkClosedError, ViolationError):
        status = 0
    except Exception as error:  # the last line of a process without a caller
        print(f"overlay-vpn gate: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _open_pool(memory: int) -> Pool:
    mapped = memoryview(mmap.mmap(memory, buffer_size(SLOTS)))
    os.close(memory)  # the mapping has a descriptor of its own
    return Pool(mapped, IPv4Network(POOL4), IPv6Network(POOL6), _POOL_KEY, SLOTS)


def new_pool() -> int:
    """Return a memory file for the map of names; it never touches a disk (memfd_create(2))."""
    fd = os.memfd_create("overlay-vpn names", os.MFD_CLOEXEC)
    os.ftruncate(fd, buffer_size(SLOTS))
    return fd
