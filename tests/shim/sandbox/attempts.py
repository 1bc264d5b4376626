"""Makes forbidden calls in children under the very filters of the shim, and says what came of it.

    python -m ... ROLE        prints {attempt: outcome} as JSON; the role "nobody" has no filter

An outcome is "killed", a name of errno(3), or "done". Before each attempt the child does something
harmless and says so; a child that has not is "broken".
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable

import prctl
from headers import numbers
from roles import ROLES

from shim.sandbox import filters, seccomp

MACHINE = os.uname().machine
CLONE_FS, CLONE_THREAD, CLONE_NEWNS = 0x200, 0x10000, 0x20000  # refused by every kernel as they are
X32 = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long  # an address, cut to 32 bits, may look like an error
_known = numbers(MACHINE)
_path = ctypes.c_char_p(b"/dev/null")
_how = ctypes.create_string_buffer(24)

Call = tuple[int, ...]


def call(name: str, *arguments: object) -> Callable[[], int]:
    return lambda: int(_libc.syscall(_known[name], *arguments))


NOWHERE = ctypes.c_long(-1)
ATTEMPTS: dict[str, Callable[[], int]] = {
    "execve": call("execve", ctypes.c_char_p(b"/nowhere"), None, None),
    "execveat": call("execveat", -100, ctypes.c_char_p(b"/nowhere"), None, None, 0),
    "clone-namespace": call("clone", CLONE_NEWNS | CLONE_FS, None, None, None, None),
    "clone-thread": call("clone", CLONE_THREAD, None, None, None, None),
    "clone3": call("clone3", None, ctypes.c_size_t(0)),
    "openat": call("openat", -100, _path, os.O_RDONLY),
    "openat2": call("openat2", -100, _path, _how, ctypes.c_size_t(24)),
    "fstat": call("fstat", 0, ctypes.create_string_buffer(256)),
    "newfstatat": call("newfstatat", -100, _path, ctypes.create_string_buffer(256), 0),
    **{
        f"socket-{family}": call("socket", family, 2, 0)
        for family in (1, 2, 10, 16, 17, 38, 40)  # UNIX INET INET6 NETLINK PACKET ALG VSOCK
    },
    "ptrace": call("ptrace", 2, 1, None, None),
    "process_vm_readv": call("process_vm_readv", 1, None, 0, None, 0, 0),
    "mount": call("mount", None, None, None, 0, None),
    "umount2": call("umount2", None, 0),
    "open_tree": call("open_tree", -100, _path, 0),
    "chroot": call("chroot", ctypes.c_char_p(b"/nowhere")),
    "unshare": call("unshare", 0),
    "setns": call("setns", -1, 0),
    "bpf": call("bpf", -1, None, 0),
    "io_uring_setup": call("io_uring_setup", 0, None),
    "keyctl": call("keyctl", -1, 0, 0, 0, 0),
    "kexec_load": call("kexec_load", NOWHERE, NOWHERE, None, NOWHERE),
    "init_module": call("init_module", None, 0, None),
    "finit_module": call("finit_module", -1, None, 0),
    "reboot": call("reboot", 0, 0, 0, None),
    "memfd_create": call("memfd_create", ctypes.c_char_p(b"x"), 0),
    "userfaultfd": call("userfaultfd", -1),
    "perf_event_open": call("perf_event_open", None, 0, 0, -1, 0),
    "pidfd_getfd": call("pidfd_getfd", -1, 0, 0),
    "mmap-code": call("mmap", None, ctypes.c_size_t(4096), 0x5, 0x22, -1, ctypes.c_long(0)),
    "mprotect": call("mprotect", None, 0, 0),
    "kill": call("kill", 1, 0),
    "connect": call("connect", -1, None, 0),
    "bind": call("bind", -1, None, 0),
    "setresuid": call("setresuid", -1, -1, -1),
    "capset": call("capset", None, None),
    "seccomp": call("seccomp", 1, 0, None),
    "dumpable": call("prctl", 4, 1, 0, 0, 0),
    "ioctl-tun": call("ioctl", -1, 0x400454CA, None),
    **({"x32": lambda: int(_libc.syscall(X32 | 39))} if MACHINE == "x86_64" else {}),
}


def outcome(attempt: Callable[[], int], allowed: frozenset[str] | None) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        if allowed is not None:
            prctl.set_no_new_privs(1)
            if not filters.install(seccomp.assemble(allowed)):
                os._exit(1)
        os.write(writing, b"alive ")
        result = attempt()
        os.write(writing, (errno.errorcode[ctypes.get_errno()] if result < 0 else "done").encode())
        os._exit(0)
    os.close(writing)
    said = b""
    while chunk := os.read(reading, 64):
        said += chunk
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    alive, _, result = said.decode().partition(" ")
    if alive != "alive":
        return f"broken: {status}"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "killed"
    return result or f"broken: {status}"


def main() -> None:
    json.dump(
        {
            role: {name: outcome(attempt, allowed) for name, attempt in ATTEMPTS.items()}
            for role, allowed in {"nobody": None, **ROLES}.items()
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
