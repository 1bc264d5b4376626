"""T7: gates are killed in mid-transfer; the flows live on, names keep their addresses.

app ──── router ──── server ──── target      the gate is killed, its supervisor starts another
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import pytest
from test_shim_process import children, instance, runs, status
from test_transfer import resident

from lab import Lab, Program, kill, services, tcp, until
from lab.addresses import CLOSED_PORT, TARGET
from lab.overlay import PROGRAM, Endpoint, Overlay

PORT, ECHO = 7000, 7001
KILLS = 50
MAY_GROW = 4 << 20
SIZE_OF_RUN = 60_000_000
LIVED_S = 0.6
"""A gate that has lived so long is no early death (shim/gate/process/supervisor.py)."""

QUICK = 4
"""So many gates in a row may die young."""


class Gates:
    """The gates of one supervisor, killed one after the other."""

    def __init__(self, supervisor: int) -> None:
        self.supervisor = supervisor
        self.killed = 0
        self._since = time.monotonic()

    @property
    def current(self) -> int:
        """The gate that is alive, 0 if there is none."""
        return next(iter(children(self.supervisor)), 0)

    @property
    def is_over(self) -> bool:
        """Whether there will be no other gate."""
        return not runs(self.supervisor, "shim.gate") and not runs(
            self.supervisor, "shim.namespace"
        )

    def kill(self) -> None:
        """Kill the gate; returns when there is another one, or no supervisor any more."""
        if self.killed % QUICK == 0:
            time.sleep(max(0.0, self._since + LIVED_S - time.monotonic()))
        gate = self.current
        if gate:
            kill([gate])
        until(lambda: self.is_over or self.current not in (0, gate), 15, "another gate")
        self.killed += 1
        self._since = time.monotonic()


def gates_of(overlay: Overlay) -> Gates:
    return Gates(instance(overlay.status()["pid"]).supervisor)


def assert_equal(client: Program, server: Program, size: int) -> None:
    assert client.wait(60) == 0
    near, _ = json.loads(client.says(r"^\[.*\]$")[0])
    far = json.loads(server.says(r"^\{.*\}$")[0])
    assert near["received"] == far["received"] == size
    assert near["received_sha256"] == far["sent_sha256"]
    assert far["received_sha256"] == near["sent_sha256"]


def assert_echoes(lab: Lab, host: str) -> None:
    with tcp.connect(lab.app, host, ECHO) as stream:
        stream.sendall(b"over a new gate")
        assert stream.recv(64) == b"over a new gate"


def address_of(lab: Lab, name: str) -> list[str]:
    return lab.app.run(["getent", "ahostsv4", name]).stdout.splitlines()


def serve_of(overlay: Overlay, transport: str) -> Endpoint:
    return overlay.serve() if transport == "quic" else overlay.serve_ssh()


@pytest.mark.timeout(240)
@pytest.mark.lab(capture=False)
@pytest.mark.parametrize(("transport", "size"), [("quic", 60_000_000), ("ssh", 400_000_000)])
def test_transfer_completes_while_gates_are_killed(
    lab: Lab, overlay: Overlay, transport: str, size: int
) -> None:
    services.names(lab.target)
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(serve_of(overlay, transport), "--dns", "virtual")
    gates = gates_of(overlay)
    addresses = address_of(lab, "www.example.com")
    assert addresses
    server = tcp.serve(lab.target, "exchange", TARGET.v4, PORT, size)
    words = (sys.executable, tcp.__file__, "exchange", TARGET.v4, str(PORT), str(size))
    client = lab.app.popen(words)
    killed = 0
    while client.is_alive:
        gates.kill()
        killed += client.is_alive
        assert_echoes(lab, TARGET.v4)
        assert address_of(lab, "www.example.com") == addresses
    assert_equal(client, server, size)
    assert killed >= 3
    until(lambda: overlay.status()["flows_active"] == 0, 15, "the end of every flow")


def test_idle_flow_and_its_name_live_on(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(overlay.serve())
    gates = gates_of(overlay)
    address = address_of(lab, "www.example.com")[0].split()[0]
    with tcp.connect(lab.app, address, ECHO) as stream:
        for number in range(5):
            gates.kill()
            stream.sendall(b"%d" % number)
            assert stream.recv(64) == b"%d" % number
        assert_echoes(lab, address)
        assert overlay.status()["flows_active"] >= 1
    until(lambda: overlay.status()["flows_active"] == 0, 15, "the end of every flow")


def test_connections_made_at_the_moment_of_a_kill_are_opened(lab: Lab, overlay: Overlay) -> None:
    """SYNs that were held come again; connections in the listener reach the client."""
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(overlay.serve())
    gates = gates_of(overlay)
    for _ in range(6):
        with ThreadPoolExecutor() as threads:
            made = [threads.submit(assert_echoes, lab, TARGET.v4) for _ in range(8)]
            gates.kill()
            for each in made:
                each.result()
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    until(lambda: overlay.status()["flows_active"] == 0, 15, "the end of every flow")


def test_connection_that_was_opened_for_a_dead_gate_is_not_opened_again(
    lab: Lab, overlay: Overlay
) -> None:
    """Asked by one gate, whose answer the next one finds in the link: still one connection."""
    overlay.up(overlay.serve())
    pids = instance(overlay.status()["pid"])
    with tcp.listen(lab.target, TARGET.v4) as listener, lab.app.call(socket.socket) as near:
        os.kill(pids.client, signal.SIGSTOP)
        before = wake_ups(pids.gate)
        near.setblocking(False)
        near.connect_ex(listener.getsockname())
        # It may have been awake while this was counted.
        until(lambda: wake_ups(pids.gate) > before + 1, 15, "the gate to ask")
        os.kill(pids.gate, signal.SIGSTOP)
        os.kill(pids.client, signal.SIGCONT)
        far, _ = listener.accept()
        until(lambda: overlay.status()["flows_opened"] == 1, 15, "the client's answer")
        os.kill(pids.gate, signal.SIGKILL)
        far.settimeout(10)
        until(lambda: select.select([], [near], [], 1)[1], 10, "the connection")
        near.sendall(b"through the next gate")
        assert far.recv(64) == b"through the next gate"
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
        far.close()


def wake_ups(pid: int) -> int:
    """How often a process has waited for something and got it (proc(5))."""
    return int(status(pid)["voluntary_ctxt_switches"])


def test_client_and_supervisor_do_not_grow_with_the_number_of_gates(
    lab: Lab, overlay: Overlay
) -> None:
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(overlay.serve())
    pids = instance(overlay.status()["pid"])
    gates = Gates(pids.supervisor)

    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in astuple(pids)[:-1]]

    def size() -> int:
        return sum(resident([pids.client, pids.supervisor]).values())

    def kill(count: int) -> None:
        for _ in range(count):
            gates.kill()
        assert_echoes(lab, TARGET.v4)
        until(lambda: overlay.status()["flows_active"] == 1, 15, "the one flow that stays")

    with tcp.connect(lab.app, TARGET.v4, ECHO) as stream:
        kill(QUICK)
        before, size_before = descriptors(), size()
        kill(KILLS)
        until(lambda: max(map(int.__sub__, descriptors(), before)) <= 0, 15, "no more descriptors")
        stream.sendall(b"still here")
        assert stream.recv(64) == b"still here"
    assert size() - size_before < MAY_GROW


def test_gates_that_die_again_and_again_are_the_end(lab: Lab, overlay: Overlay) -> None:
    """And nothing is left, which the lab checks."""
    program = overlay.start(overlay.serve())
    gates = Gates(instance(program.pid).supervisor)
    while not gates.is_over:
        if gate := gates.current:
            kill([gate])
    assert program.wait() != 0
    assert "the privileged part has ended" in program.stderr
    overlay.is_up = False


@pytest.mark.lab(capture=False)
def test_transfer_of_a_command_completes_while_gates_are_killed(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    server = tcp.serve(lab.target, "exchange", TARGET.v4, PORT, SIZE_OF_RUN)
    exchange = (sys.executable, tcp.__file__, "exchange", TARGET.v4, str(PORT), str(SIZE_OF_RUN))
    words = (PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", str(overlay.identity))
    client = lab.app.popen([*words, "--", *exchange], user=lab.alice)
    gates = Gates(until(lambda: supervisor_of(client.pid), 30, "the supervisor"))
    killed = 0
    while client.is_alive:
        gates.kill()
        killed += client.is_alive
    assert_equal(client, server, SIZE_OF_RUN)
    assert killed >= 3


def supervisor_of(run: int) -> int:
    """The supervisor of a run with its gate: parent ─ client ─ namespace ─ supervisor ─ gate."""
    for client in children(run):
        for namespace in children(client):
            for supervisor in children(namespace):
                if runs(namespace, "shim.namespace") and children(supervisor):
                    return supervisor
    return 0
