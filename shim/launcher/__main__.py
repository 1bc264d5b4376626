"""`python -I -B -m shim.launcher`: the launcher, with its link on fd 3.

As a service it has netlink sockets on 4 and 5 (`host_network.py`). Monitor and gate supervisor are
started first, so that all three load at once.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Final

from shim.exit import end_after
from shim.launcher.children import GateSupervisor, Monitor
from shim.sandbox import stages

LINK_FD: Final = 3
_MAX_FD: Final = 1 << 20
_EX_CONFIG: Final = 78


def main() -> int:
    """Start monitor and supervisor, then run the launcher. Returns its exit status."""
    try:
        link = socket.socket(fileno=LINK_FD)
    except OSError:
        line = "the shim is started by 'overlay-vpn up', or by systemd on a socket"
        print(f"overlay-vpn: {line}", file=sys.stderr)
        return 1
    try:
        given = _given()
    except _OutOfDateError:
        with suppress(OSError):  # systemd would start us for this client again and again
            link.accept()[0].close()
        line = "overlay-vpn-shim.socket is out of date; run 'overlay-vpn service install shim' and"
        print(f"overlay-vpn: {line} 'systemctl restart overlay-vpn-shim.socket'", file=sys.stderr)
        return _EX_CONFIG
    os.closerange(LINK_FD + 1 + len(given), _MAX_FD)  # what a caller has left open
    with suppress(PermissionError):  # systemd has done it
        os.setsid()
    os.umask(0o022)
    monitor = Monitor()
    stages.clear_ambient()  # the supervisor never holds a capability of a service
    supervisor = GateSupervisor()
    from shim.launcher import process
    from shim.launcher.host_network import HostNetwork, opened

    machine = HostNetwork(*given) if given else opened()
    return process.main(link, supervisor, monitor, machine, is_service=bool(given))


class _OutOfDateError(Exception):
    """systemd passes other descriptors than the socket unit of this version names."""


def _given() -> list[int]:
    """Return the netlink sockets passed by systemd (sd_listen_fds(3)), if it started the shim.

    Without them a service would change its own network namespace instead of the machine's.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    if os.environ.get("LISTEN_FDS") != "3":
        raise _OutOfDateError
    given = [LINK_FD + 1, LINK_FD + 2]
    for fd in given:
        os.set_inheritable(fd, False)
    return given


if __name__ == "__main__":
    end_after(main, "launcher")
