"""Gives privileges away for good, in named stages, and reads back what is left.

| stage        | afterwards the process should              | and must not                     |
|--------------|--------------------------------------------|----------------------------------|
| isolation    | hold the descriptors that it was given     | reach a network                  |
| bounding set | keep what it has                           | regain anything by exec          |
| identity     | be a user that owns nothing, in no group   | open what belongs to root        |
| capabilities | hold `keep`, as effective and permitted    | hold or pass on any other        |
| lock         | stay as it is (securebits, no_new_privs)   | be traced, dumped, change again  |

Source: capabilities(7), prctl(2).
"""

from __future__ import annotations

import os
from typing import Final

import prctl

from shim import linux

UID: Final = 61100
"""Outside the ranges of Debian policy §9.2.2 and of systemd (UIDS-GIDS): no file belongs to it."""

NET_ADMIN: Final = 12


class NotDroppedError(Exception):
    """The kernel reports other privileges than those that were meant to remain."""


def identity() -> int:
    """Return the user to become: `UID` if root may, else the one that we are."""
    if os.geteuid() != 0:
        return os.geteuid()
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    is_mapped = any(inside <= UID < inside + count for inside, _, count in ranges)
    return UID if is_mapped else 0


def isolate() -> None:
    """Leave for an empty network of one's own. Raises OSError.

    Without the capability to do just that, it takes a user namespace, which gives others: `drop`
    comes afterwards.
    """
    try:
        linux.unshare(linux.CLONE_NEWNET)
    except PermissionError:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)


def drop(keep: frozenset[int], uid: int) -> None:
    """Keep only the capabilities `keep`, become the user `uid`, and lock that.

    Raises NotDroppedError if the result is not exactly that, OSError if a step fails.
    """
    held = _capabilities("CapPrm")
    if held & (1 << prctl.CAP_SETPCAP):
        for capability in range(_last_capability() + 1):
            prctl.capbset_drop(capability)
        prctl.set_securebits(
            prctl.SECBIT_NOROOT
            | prctl.SECBIT_NOROOT_LOCKED
            | prctl.SECBIT_NO_SETUID_FIXUP
            | prctl.SECBIT_NO_SETUID_FIXUP_LOCKED
            | prctl.SECBIT_KEEP_CAPS_LOCKED
        )
    if uid != os.geteuid() and held & (1 << prctl.CAP_SETUID):
        # No uid fix-up (securebits): the capabilities survive this and are limited below.
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.clear_ambient()
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*keep)
    prctl.cap_permitted.limit(*keep)
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)
    wanted = sum(1 << capability for capability in keep)
    for name, mask in (("CapEff", wanted), ("CapPrm", wanted), ("CapInh", 0), ("CapAmb", 0)):
        if _capabilities(name) != mask:
            raise NotDroppedError(f"{name} is not {mask:#x}")
    if _status("NoNewPrivs") != "1":
        raise NotDroppedError("no_new_privs is not set")


def _status(name: str) -> str:
    with open("/proc/self/status") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
    raise NotDroppedError(f"/proc/self/status has no {name}")


def _capabilities(name: str) -> int:
    return int(_status(name), 16)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())
