"""The confinement of a process in named stages, each irrevocable, and a check of what is left.

| stage        | afterwards the process should              | and must not                     |
|--------------|--------------------------------------------|----------------------------------|
| limits       | have room for its work                     | dump core, fill a disk or memory |
| bounding set | keep what it has                           | regain anything by exec          |
| identity     | be a user that owns nothing, in no group   | open what belongs to root        |
| capabilities | hold those of its profile                  | hold or pass on any other        |
| lock         | stay as it is (securebits, no_new_privs)   | be traced, dumped, change again  |
| Landlock     | use what is open                           | open, or signal, anything else   |
| read-back    | be what its profile says, in one thread    | go on if it is not               |
| lines        | show what is wrong by lines                | look for its source              |
| filter       | make the calls that it declares            | make any other                   |

Before the first, a process closes what is not its business (`linux.close_all_but`), and then opens
what it still needs: from here on, nothing is opened.

A process that already holds exactly the capabilities of its profile does not call capset(2): the
unit of a service forbids it.

A new user namespace gives every capability in it, so a process creates one before `enter`. A change
of identity clears the parent-death signal (prctl(2)), so a process sets that one after `enter`.

Source: capabilities(7), prctl(2), proc_pid_status(5).
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TextIO

import prctl

from shim.exit import show_by_lines
from shim.protocol.common import Missing
from shim.sandbox import filters, landlock

NET_ADMIN: Final = 12

UID: Final = 61100
"""Outside the ranges of Debian policy §9.2.2 and of systemd (UIDS-GIDS): no file belongs to it."""

_PR_SET_SECUREBITS: Final = 28

_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)

_DESCRIPTORS: Final = 4096
_FILE_BYTES: Final = 1 << 20
_SECUREBITS: Final = 0xEF
"""Every bit but KEEP_CAPS, and each of them locked (linux/securebits.h)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a process keeps, besides its open descriptors."""

    syscalls: frozenset[str]
    capabilities: frozenset[int] = frozenset()
    is_nobody: bool = True
    """Whether it becomes a user that owns nothing, if it may."""
    may_fork: bool = False
    directories: Mapping[str, int] = field(default_factory=dict)
    """The rights of Landlock that it keeps below certain directories."""


class NotConfinedError(Exception):
    """The kernel reports other privileges than the profile says."""


def enter(profile: Profile, program: bytes) -> tuple[Missing, ...]:
    """Pass through all stages; returns what this kernel lacks.

    `program` is the filter for the profile's system calls (`seccomp.assemble`).

    Raises NotConfinedError if the result is not what the profile says, OSError if a stage fails:
    then the process must end.
    """
    with open("/proc/self/status") as status:  # Landlock closes the way to it
        _limit(may_fork=profile.may_fork)
        expected = {"Threads": "1", "NoNewPrivs": "1", "CapAmb": _mask(frozenset())}
        held = int(_read(status)["CapPrm"], 16)
        if held & (1 << prctl.CAP_SETPCAP):
            _bound()
            expected["CapBnd"] = _mask(frozenset())
        if profile.is_nobody and held & (1 << prctl.CAP_SETUID):
            expected |= _become(_nobody())
        clear_ambient()
        if held != int(_mask(profile.capabilities), 16):
            _keep(profile.capabilities)
            expected["CapInh"] = _mask(frozenset())
        expected |= dict.fromkeys(("CapPrm", "CapEff"), _mask(profile.capabilities))
        prctl.set_dumpable(0)
        prctl.set_no_new_privs(1)
        has_landlock = landlock.restrict(profile.directories)
        found = _read(status)
    for name, value in expected.items():
        if found[name] != value:
            raise NotConfinedError(f"{name} is {found[name]}, not {value}")
    show_by_lines()
    has_filter = filters.install(program)
    present = {Missing.LANDLOCK: has_landlock, Missing.SECCOMP: has_filter}
    return tuple(feature for feature, is_there in present.items() if not is_there)


def _limit(*, may_fork: bool) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _DESCRIPTORS,
        **({} if may_fork else {resource.RLIMIT_NPROC: 0}),
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _bound() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        prctl.capbset_drop(capability)
    _set(_PR_SET_SECUREBITS, _SECUREBITS)


def _nobody() -> int:
    """Return `UID` where it exists, else the user that we are (user_namespaces(7))."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    is_mapped = any(inside <= UID < inside + count for inside, _, count in ranges)
    return UID if is_mapped else os.geteuid()


def _become(uid: int) -> dict[str, str]:
    """Become a user; its capabilities stay (securebits). Returns what /proc should say of it."""
    if uid == os.geteuid():
        return {}
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return {"Uid": "\t".join([str(uid)] * 4), "Gid": "\t".join([str(uid)] * 4), "Groups": ""}


def _keep(capabilities: frozenset[int]) -> None:
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*capabilities)
    prctl.cap_permitted.limit(*capabilities)


def clear_ambient() -> None:
    """Give a program that is run from now on no capability, unless as root. Raises OSError."""
    _set(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def _set(option: int, value: int) -> None:
    """Call prctl(2) as the library cannot. Raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _read(status: TextIO) -> dict[str, str]:
    status.seek(0)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in status)}


def _mask(capabilities: frozenset[int]) -> str:
    return f"{sum(1 << capability for capability in capabilities):016x}"
