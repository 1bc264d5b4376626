"""The gate as a process: a fork of the supervisor, which has no privilege any more."""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NoReturn

from dns.pool import Pool, buffer_size
from shim.exit import end_after
from shim.gate.io import loop
from shim.gate.io.loop import Gate
from shim.gate.resolver import Names
from shim.protocol import POOL4, POOL6, link
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.sandbox import filters, seccomp

SYSCALLS: Final = loop.SYSCALLS | link.SYSCALLS

SLOTS: Final = 65536
"""The most names that have an address at a time."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory file of the map of names, and the key of the hash that places names in it."""

    fd: int
    key: bytes


def run(
    capture: int, flow: int, listener: socket.socket, client: Link, pool: Memory, generation: int
) -> NoReturn:
    """Run the gate. Exits with 0 when the client has gone or broken a rule, else with 1."""

    def work() -> int:
        names = Names(_open_pool(pool), generation)
        filters.install(seccomp.assemble(SYSCALLS))
        with suppress(LinkClosedError, ViolationError):
            Gate(capture, flow, listener, client, names, generation).run()
        return 0

    end_after(work, "gate")


def _open_pool(memory: Memory) -> Pool:
    mapped = memoryview(mmap.mmap(memory.fd, buffer_size(SLOTS)))
    os.close(memory.fd)  # the mapping has a descriptor of its own
    return Pool(mapped, IPv4Network(POOL4), IPv6Network(POOL6), memory.key, SLOTS)
