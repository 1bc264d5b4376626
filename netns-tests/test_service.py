"""The client and the server under a service manager: ready when usable, stopped with a drain.

app ──── router ──── server ──── target
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab, activation, limits, tcp, until
from lab.activation import SERVICE_UID
from lab.addresses import TARGET
from lab.host import Program
from lab.overlay import Endpoint, Overlay
from vpn.cli.server import DRAIN_S

UNITS = Path(__file__).parents[1] / "packaging/systemd"
# ProtectProc=, ProcSubset=, ProtectKernelTunables= (systemd.exec(5)).
PROC = 'mount -t proc -o subset=pid,hidepid=invisible none /proc; exec "$@"'
IN_PROC = ("unshare", "--mount", "sh", "-euc", PROC, "sh")


class Manager:
    """What a service manager hears from one process."""

    def __init__(self, lab: Lab) -> None:
        path = lab.tmp / "notify"
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000"}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._socket.settimeout(30)

    def hears(self, line: str) -> list[str]:
        """Wait for a message with a line that starts so; returns what came before, and it."""
        found: list[str] = []
        while not any(each.startswith(line) for each in found):
            found += self._socket.recv(4096).decode().split("\n")
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(lab: Lab) -> Iterator[Manager]:
    with closing(Manager(lab)) as manager:
        yield manager


def test_client_tells_when_it_is_usable_and_when_it_is_not(
    lab: Lab, overlay: Overlay, manager: Manager
) -> None:
    tcp.serve(lab.target, "echo", TARGET.v4, 80)
    endpoint = overlay.serve()
    argv = overlay.up_command(endpoint, "--foreground")
    client = lab.app.popen(argv, env={**overlay.sudo, **manager.environment})
    before = manager.hears("READY=1")
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert "STATUS=connected" in before
    manager.hears("WATCHDOG=1")
    endpoint.program.stop(signal.SIGKILL)
    assert manager.hears("STATUS=the session ended")[-1].endswith("reconnecting")
    client.process.send_signal(signal.SIGTERM)
    assert "READY=1" not in manager.hears("STOPPING=1")
    assert client.wait(15) == 0


@dataclass(frozen=True)
class Draining:
    """A server that was told to stop, and waits for one flow."""

    endpoint: Endpoint
    client: Program
    near: socket.socket
    far: socket.socket


@pytest.fixture
def draining(lab: Lab, overlay: Overlay) -> Draining:
    endpoint = overlay.serve()
    client = overlay.start(endpoint)
    near, far = tcp.pair(lab.app, lab.target, TARGET.v4)
    endpoint.program.process.send_signal(signal.SIGTERM)
    until(lambda: tcp.outcome(lab.app, TARGET.v4, 80) == "ENETUNREACH", 10, "no new flows")
    return Draining(endpoint, client, near, far)


def test_server_stops_when_its_last_flow_has_ended(draining: Draining) -> None:
    endpoint, near, far = draining.endpoint, draining.near, draining.far
    near.sendall(b"still here")
    assert far.recv(64) == b"still here"
    assert endpoint.program.is_alive
    near.close()
    assert far.recv(64) == b""
    far.close()
    assert endpoint.program.wait(8) == 0
    draining.client.stop(timeout_s=15)


def test_server_stops_at_once_when_told_twice(draining: Draining) -> None:
    endpoint = draining.endpoint
    started = time.monotonic()
    endpoint.program.process.send_signal(signal.SIGTERM)
    assert endpoint.program.wait(15) == 0
    assert time.monotonic() - started < DRAIN_S / 2
    draining.near.close()
    draining.far.close()
    draining.client.stop(timeout_s=15)


def test_shim_and_client_work_within_the_limits_of_their_units(lab: Lab, overlay: Overlay) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    tcp.serve(lab.target, "echo", TARGET.v4, 80)
    policy = lab.app.path(activation.POLICY)
    policy.parent.mkdir()
    activation.write_policy(lab, users=["alice"])
    shim = activation.serve(
        lab,
        SERVICE_UID,
        wrapper=IN_PROC,
        limits=limits.command(UNITS / "overlay-vpn-shim.service"),
    )
    argv = overlay.up_command(overlay.serve(), "--foreground")
    within = limits.command(UNITS / "overlay-vpn-client@.service")
    alice = ["setpriv", f"--reuid={lab.alice.uid}", f"--regid={lab.alice.gid}", "--clear-groups"]
    client = lab.app.popen([*IN_PROC, *alice, *within, *argv])
    client.says("^connected$", timeout_s=30)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert client.stop(timeout_s=30) == 0
    shim.says("^ended 0$")
    assert shim.stop(timeout_s=20) == 0
    policy.unlink()
    policy.parent.rmdir()
