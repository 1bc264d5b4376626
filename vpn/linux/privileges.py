"""The credentials and capabilities of this process, and its limit of open files.

What is given up is given up for good. Sources: credentials(7), capabilities(7), getrlimit(2).
"""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import prctl

from vpn.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A user of this machine, whose keys, agent and known hosts are used (passwd(5))."""

    uid: int
    gid: int
    name: str
    home: Path


def invoking_user(environment: Mapping[str, str]) -> LocalUser:
    """Return the user who ran sudo(8), or else the one of this process.

    Raises ConfigurationError.
    """
    uid = os.getuid()
    if uid == 0:
        try:
            uid = int(environment.get("SUDO_UID", "0"))
        except ValueError:
            raise ConfigurationError("SUDO_UID is not a number; run it with sudo") from None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        name = environment.get("SUDO_USER") or environment.get("USER") or str(uid)
        gid = int(environment.get("SUDO_GID", os.getgid()))
        return LocalUser(uid, gid, name, Path(environment.get("HOME") or "/"))
    return LocalUser(uid, entry.pw_gid, entry.pw_name, Path(entry.pw_dir))


def allow_many_files() -> None:
    """Raise the soft limit of open descriptors to the hard one: each flow is one (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a service manager has done it, and may not let us
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def become(user: LocalUser) -> None:
    """Become a user, without any capability and without a way back.

    Raises OSError. Nothing that handles bytes of the network runs before this.
    """
    if os.getuid() == 0 and user.uid != 0:
        os.initgroups(user.name, user.gid)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    lock()
    os.environ |= {"HOME": str(user.home), "USER": user.name, "LOGNAME": user.name}


def lock() -> None:
    """Give up every capability for good, and keep the keys in memory from ptrace(2) and dumps."""
    drop_capabilities()
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)


def drop_capabilities() -> None:
    """Give up every capability that this thread holds (capabilities(7)).

    A service manager that has taken them may also forbid capset(2), so it is not called in vain.
    """
    if _holds_capabilities():
        prctl.cap_inheritable.limit()
        prctl.cap_effective.limit()
        prctl.cap_permitted.limit()


def drop_bounding_set() -> None:
    """Keep every program that is run from now on from gaining a capability; needs CAP_SETPCAP."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        prctl.capbset_drop(capability)


def _holds_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("CapInh", "CapPrm")))
