"""`python -I -B -m shim.gate`: the gate supervisor under `up`.

The launcher's link is on fd 3, the client's on 4.

It is started before a byte of the client is read, so that no process that keeps a privilege loads
the code that reads packets. It creates nothing: the launcher sends it the devices and the listener
of the flow namespace. Then it drops every privilege and supervises gates (`process/supervisor.py`).
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
from shim.protocol.gate_supervisor import SUPERVISOR, Keep, Keeping
from shim.protocol.link import Link, LinkClosedError, ViolationError

LAUNCHER_FD: Final = 3
CLIENT_FD: Final = 4


def main() -> int:
    """Receive the descriptors of a gate and supervise it. Returns 0 if they never come."""
    sock = socket.socket(fileno=LAUNCHER_FD)
    launcher = Link(sock, SUPERVISOR)
    client = Link(socket.socket(fileno=CLIENT_FD), GATE)
    select.select([launcher], [], [])
    with suppress(LinkClosedError, ViolationError):
        match launcher.receive():
            case Keep(is_flow_namespace), (capture, device, listener):
                flow = FlowNetwork(device, socket.socket(fileno=listener))
                given = supervisor.GateDescriptors(capture, flow, client, supervisor.new_pool())
                launcher.send(Keeping())
                supervisor.run(given, sock, has_network=not is_flow_namespace)
    return 0


if __name__ == "__main__":
    end_after(main, "supervisor")
