"""`python -I -B -m shim.gate`: the keeper under `up`; link to the warden on fd 3, client's on 4.

Theory of operation
-------------------
It is started before a byte of the client is read, so that it loads the code that reads packets
into no process that keeps a privilege. In this order:

 1. with the privileges of the caller: the flow namespace, which is in nobody's way;
 2. when the warden says that nobody else is up here: the capture TUN;
 3. an answer to the warden; from then on it is the keeper (`keeper.py`), without a privilege.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Final

from shim.ending import end_after
from shim.gate import flownet, keeper, tun
from shim.protocol import DEVICE
from shim.protocol.common import Failed, Fault
from shim.protocol.gate import GATE
from shim.protocol.keeper import KEEPER, Made
from shim.protocol.link import Link, LinkClosedError, ViolationError

WARDEN_FD: Final = 3
CLIENT_FD: Final = 4


def main() -> int:
    """Make what the gate needs, and keep it. Returns the exit status, if that is in vain."""
    sock = socket.socket(fileno=WARDEN_FD)
    warden = Link(sock, KEEPER)
    client = Link(socket.socket(fileno=CLIENT_FD), GATE)
    with suppress(LinkClosedError, ViolationError):
        try:
            flow = _flow_network(warden)
            capture = tun.create(DEVICE)
        except OSError as error:
            warden.send(Failed(_fault_of(error), error.errno or 0))
            return 0
        given = keeper.Given(capture, flow, client, keeper.new_pool())
        warden.send(Made())
        keeper.run(given, sock)
    return 0


def _flow_network(warden: Link) -> flownet.FlowNetwork:
    try:
        return flownet.build()
    finally:
        # An answer before the question would be lost: a link that ends with something unread in
        # it is reset (unix(7)).
        select.select([warden], [], [])
        warden.receive()


def _fault_of(error: OSError) -> Fault:
    if isinstance(error, PermissionError):
        return Fault.NOT_PERMITTED
    return Fault.NO_TUN if isinstance(error, FileNotFoundError) else Fault.NO_NAMESPACE


if __name__ == "__main__":
    end_after(main, "keeper")
