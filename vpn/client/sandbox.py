"""The sandbox of the client of `up`: files it can still use, and warnings where there is none.

Theory of operation
-------------------
The client runs as the user, and parses what a server sends. It has no capability and cannot gain
one (`vpn.linux.privileges`). With Landlock it gives up, for good, what a user may do and the client
does not need:

- it runs no program at all (a shared object that is loaded is read, not run);
- it reads the interpreter, libraries, what resolves names, and the user's keys and known hosts;
- it writes to the known hosts, if a new server may be added to them, and to nothing else; its log
  and its listening sockets are open already;
- it signals no process, and reaches no abstract Unix socket; that of ssh-agent(1) has a path.

A named file outside those directories, such as a key elsewhere, is allowed as the file that it was
at the start: another file that takes its name later is not readable.

It holds for the calling thread and those that it creates, so it comes before the event loop, which
creates some for name resolution.

This is for `up` only. The client of `run` kills what the command has left running, and finds it by
the network namespace of each process, which a process under Landlock cannot read, whatever its
rules (landlock(7), "Ptrace restrictions").
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shim.protocol.common import Missing
from vpn.linux import landlock

if TYPE_CHECKING:
    from vpn.ssh.session.client import Credentials

_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/etc", "/nix/store", "/dev/urandom", "/proc/sys")
_RESOLVERS: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")

_WARNINGS: Final = {
    Missing.LANDLOCK: "no Landlock in this kernel: file permissions alone keep files from a part "
    "that is taken over",
    Missing.SECCOMP: "no system call filter for this kernel or machine: a part that is taken over "
    "can make every call that its user can",
}


def warnings(missing: Iterable[Missing]) -> tuple[str, ...]:
    """Return one line for each feature that the kernel lacks."""
    return tuple(_WARNINGS[feature] for feature in missing)


def confine(login: Credentials) -> tuple[Missing, ...]:
    """Confine this thread to what a session needs. Returns what the kernel lacks; raises OSError.

    The log must be open. A file for known hosts is made if there is none and one may be needed.
    """
    ours = str(Path(__file__).parents[2])
    libraries = (ours, sys.prefix, sys.base_prefix, *filter(None, sys.path))
    readable = [*_SYSTEM, *_RESOLVERS, *libraries, "~/.ssh"]
    for path in login.identities if isinstance(login.identities, tuple) else ():
        readable += [f"{path}{suffix}" for suffix in ("", "-cert.pub", ".pub")]
    writable = ["/dev/null"]
    if login.host_keys.accept_new:
        hosts = login.new_hosts_file.expanduser()
        with suppress(OSError):  # reported when a key is to be added
            hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            hosts.touch(mode=0o600)
        writable.append(str(hosts))
    return () if landlock.restrict(readable, writable) else (Missing.LANDLOCK,)
