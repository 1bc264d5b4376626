"""The system call filter: an allow-list, assembled from names; all the rest ends the process.

Theory of operation
-------------------
A filter is a program for the kernel's classic BPF machine, which looks at the number of a call,
the architecture and the arguments. Ours is a list of blocks, each of which either returns a verdict
or falls through to the next, so no jump leaves a block. `program` is pure; the tests
run it.

1. Another architecture than the one it was made for ends the process: numbers mean nothing there.
2. What is used most comes first. (The kernel remembers calls that are allowed whatever their
   arguments, so they cost next to nothing.)
3. Some calls are allowed with some arguments only, whoever uses them: no memory becomes code, no
   namespace or thread is made by clone, sockets are TCP and UDP, and so on.
4. Whatever reaches the file system by a path fails with EACCES. It need not be fatal: an
   interpreter looks for modules, and a library that writes down an error for its source.
5. clone3 fails with ENOSYS, so that libc falls back to clone, whose arguments can be looked at.
6. All the rest ends the process: x32, whose numbers have a bit that no number here has, too.

Memory behind pointers cannot be looked at, and the high half of an argument is not: the kernel
takes each of these as 32 bits.

Source: seccomp(2), linux/filter.h, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Final

from shim.sandbox.filters import INSTRUCTION
from shim.sandbox.numbers import ARCHITECTURES, NUMBERS

# fmt: off
SYSCALLS: Final = frozenset({
    "brk", "clock_gettime", "close", "exit_group", "futex", "getpeername", "getsockname", "mmap",
    "mremap", "munmap", "restart_syscall", "rt_sigreturn", "write",
})
# fmt: on
"""What the interpreter itself needs: memory, the clock, signals, a last line on stderr, an end.

The names of sockets are for a warning that nobody sees, about one that was left open.
"""

BY_PATH: Final = frozenset({"creat", "fstat", "newfstatat", "open", "openat", "openat2"})
"""fstat(2) is among them because fstat(3) of glibc was newfstatat before 2.39, and fails alike."""

_HOT: Final = ("readv", "write", "epoll_wait", "recvmsg", "sendmsg", "sendto", "recvfrom")

_ONLY: Final = {
    "clone": (0, (0x01200011,)),  # fork(3): SIGCHLD, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID
    "ioctl": (1, (0x5421,)),  # FIONBIO
    "fcntl": (1, (1030,)),  # F_DUPFD_CLOEXEC
    "prctl": (0, (1, 22)),  # PR_SET_PDEATHSIG, PR_SET_SECCOMP
    "socket": (0, (2, 10)),  # AF_INET, AF_INET6
}
"""Which argument of a call must be one of which values."""

_NEVER: Final = {"mmap": (2, 0x4)}  # PROT_EXEC
"""Which argument of a call must have none of which bits."""

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
KILL_PROCESS: Final = 0x80000000

# linux/bpf_common.h
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_MACHINE: Final = os.uname().machine

Instruction = tuple[int, int, int, int]
"""A `struct sock_filter`: code, how far to jump if true, if false, operand."""


def program(syscalls: Iterable[str], machine: str) -> list[Instruction]:
    """Return the filter that allows `syscalls`. Raises KeyError for a name or machine it lacks."""
    column, architecture = ARCHITECTURES[machine]
    allowed = sorted(syscalls, key=lambda name: (name not in _HOT, name))
    verdicts = [
        *((name, list(_allow(name))) for name in allowed),
        *((name, [_return(ERRNO | errno.EACCES)]) for name in sorted(BY_PATH - {*allowed})),
        ("clone3", [_return(ERRNO | errno.ENOSYS)]),
    ]
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _return(KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, verdict in verdicts:
        number = NUMBERS[name][column]
        if number is not None:
            instructions += [(_EQUAL, 0, len(verdict), number), *verdict]
    return [*instructions, _return(KILL_PROCESS)]


def _allow(name: str) -> Iterator[Instruction]:
    if name in _ONLY:
        index, values = _ONLY[name]
        yield (_LOAD, 0, 0, _ARGUMENTS + 8 * index)
        for value in values:
            yield from ((_EQUAL, 0, 1, value), _return(ALLOW))
        yield _return(KILL_PROCESS)
    elif name in _NEVER:
        index, bits = _NEVER[name]
        yield (_LOAD, 0, 0, _ARGUMENTS + 8 * index)
        yield from ((_ANY_BIT, 0, 1, bits), _return(KILL_PROCESS))
        yield _return(ALLOW)
    else:
        yield _return(ALLOW)


def _return(verdict: int) -> Instruction:
    return (_RETURN, 0, 0, verdict)


def assemble(syscalls: frozenset[str]) -> bytes:
    """Return the filter that allows `syscalls`, and what the interpreter needs, for this machine.

    It is empty if the machine is not known.
    """
    if _MACHINE not in ARCHITECTURES:
        return b""
    return b"".join(INSTRUCTION.pack(*one) for one in program(syscalls | SYSCALLS, _MACHINE))
