"""Whose tunnel it is, and becoming that user for good."""

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
    """The user whose keys, agent and known hosts are used."""

    uid: int
    gid: int
    name: str
    home: Path


def find(environment: Mapping[str, str]) -> LocalUser:
    """Return the user who ran sudo, or the one who runs us. Raises ConfigurationError."""
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
    """Use as many descriptors as the machine allows: each flow is one (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a service manager has done it, and may not let us
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def become(caller: LocalUser) -> None:
    """Become the caller, without any capability and without a way back.

    Raises OSError. Nothing that handles bytes of the network runs before this.
    """
    if os.getuid() == 0 and caller.uid != 0:
        os.initgroups(caller.name, caller.gid)
        os.setresgid(caller.gid, caller.gid, caller.gid)
        os.setresuid(caller.uid, caller.uid, caller.uid)
    lock()
    os.environ |= {"HOME": str(caller.home), "USER": caller.name, "LOGNAME": caller.name}


def lock() -> None:
    """Give away every capability for good, and keep keys in memory from being traced or dumped."""
    if _holds_capabilities():  # else a service manager may not let us say so again
        prctl.cap_inheritable.limit()
        prctl.cap_effective.limit()
        prctl.cap_permitted.limit()
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)


def _holds_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("CapInh", "CapPrm")))
