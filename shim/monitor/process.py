"""The monitor as a process: one message from the launcher, one capability, then the client.

Theory of operation
-------------------
It loads while the launcher prepares. Then the launcher, which alone decides what the client may do,
sends it one message with every descriptor that it needs, also those by which it changes the
network. It confines itself, and only then reads the first byte of the client.

It holds no device and no directory, and can open no path. Its changes are undone by the launcher
after its end; if the launcher has ended first, by itself. It holds the lock as well, so that no
other instance starts before that is done.
"""

from __future__ import annotations

import select
import signal
import socket
from contextlib import suppress
from ipaddress import ip_network
from typing import Final

from shim.monitor import journal as journals
from shim.monitor import service as serving
from shim.netlink import kernel as routing
from shim.protocol import link as links
from shim.protocol.launcher import MONITOR_OF_LAUNCHER, Serve
from shim.protocol.link import Link, LinkClosedError
from shim.protocol.monitor import MONITOR
from shim.sandbox.stages import NET_ADMIN, Profile, enter

SYSCALLS: Final = routing.SYSCALLS | journals.SYSCALLS | serving.SYSCALLS | links.SYSCALLS
PROFILE: Final = Profile(SYSCALLS, frozenset({NET_ADMIN}))

_WITHOUT_DOWN: Final = 3
"""The exit status of a monitor whose client has gone without `Down`."""


def main(sock: socket.socket) -> int:
    """Serve the client that the launcher sends over this link. Returns the exit status."""
    # systemd sends it to all processes of a service; the end of the supervisor ends us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    launcher = Link(sock, MONITOR_OF_LAUNCHER)
    select.select([launcher], [], [])
    with suppress(LinkClosedError):
        match launcher.receive():
            case Serve() as serve, fds:
                return _serve(serve, fds, launcher)
    return _WITHOUT_DOWN


def _serve(serve: Serve, fds: list[int], launcher: Link) -> int:
    """Serve the client; undo its changes if the launcher has ended."""
    status = _WITHOUT_DOWN
    client, gate, control = (socket.socket(fileno=fd) for fd in fds[:3])
    # The lock stays open.
    journal, _, supervisor = journals.Journal(fds[3]), fds[4], fds[5]
    netlink = routing.Netlink(fds[6], fds[7], serve.filters)
    link = Link(client, MONITOR)
    routes = tuple(map(ip_network, serve.routes))
    try:
        missing = enter(PROFILE, serve.program)
        service = serving.Service(
            link, journal, netlink, serve.families, routes, gate, control, serve.netns, missing
        )
        if service.run(launcher.fileno(), supervisor):
            status = 0
    finally:
        if _is_readable(launcher.fileno()):
            journal.undo_after(status, netlink)
    return status


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
