"""`python -I -B -m shim.gate`: the keeper under `up`; link to the warden on fd 3, client's on 4.

It is started before a byte of the client is read, so that the code that reads packets is loaded
into no process that keeps a privilege. It makes nothing: when the warden has made the devices and
the flow namespace, and gives them to it, it becomes the keeper (`process/supervisor.py`), without a
privilege.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Final

from shim.exit import end_after
from shim.gate.process import supervisor
from shim.gate.process.flow_namespace import FlowNetwork
from shim.protocol.gate import GATE
from shim.protocol.gate_supervisor import KEEPER, Keep, Keeping
from shim.protocol.link import Link, LinkClosedError, ViolationError

WARDEN_FD: Final = 3
CLIENT_FD: Final = 4


def main() -> int:
    """Wait for what the gate needs, and keep it. Returns the exit status, if that is in vain."""
    sock = socket.socket(fileno=WARDEN_FD)
    warden = Link(sock, KEEPER)
    client = Link(socket.socket(fileno=CLIENT_FD), GATE)
    select.select([warden], [], [])
    with suppress(LinkClosedError, ViolationError):
        match warden.receive():
            case Keep(is_flow_namespace), (capture, device, listener):
                flow = FlowNetwork(device, socket.socket(fileno=listener))
                given = supervisor.Given(capture, flow, client, supervisor.new_pool())
                warden.send(Keeping())
                supervisor.run(given, sock, has_network=not is_flow_namespace)
    return 0


if __name__ == "__main__":
    end_after(main, "keeper")
