"""The gate as a process: a fork of the keeper, which has given everything away already."""

from __future__ import annotations

import mmap
import os
import socket
import sys
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NoReturn

from dns.pool import Pool, buffer_size
from shim.gate import loop
from shim.gate.loop import Gate
from shim.gate.names import Names
from shim.protocol import POOL4, POOL6, link
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.sandbox import filters, seccomp

SYSCALLS: Final = loop.SYSCALLS | link.SYSCALLS

SLOTS: Final = 65536
"""How many names can have an address at a time."""

_POOL_KEY: Final = b"overlay-vpn"
"""Fixed, so that a name has the same address after a restart: applications cache addresses."""


def run(
    capture: int, flow: int, listener: socket.socket, client: Link, pool: int, generation: int
) -> NoReturn:
    """Be the gate. Exits with 0 when the client has gone or broken a rule, else with 1."""
    status = 1
    try:
        names = Names(_open_pool(pool), generation)
        filters.install(seccomp.assemble(SYSCALLS))
        Gate(capture, flow, listener, client, names, generation).run()
    except (LinkClosedError, ViolationError):
        status = 0
    except Exception as error:  # the last line of a process without a caller
        print(f"overlay-vpn gate: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _open_pool(memory: int) -> Pool:
    mapped = memoryview(mmap.mmap(memory, buffer_size(SLOTS)))
    os.close(memory)  # the mapping has a descriptor of its own
    return Pool(mapped, IPv4Network(POOL4), IPv6Network(POOL6), _POOL_KEY, SLOTS)
