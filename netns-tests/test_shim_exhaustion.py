"""S6: without descriptors or room, new flows are refused, old ones live on, and later all is well.

app: client ─ launcher ─┬─ monitor
                      └─ supervisor ─ gate          each limited from outside by prlimit(1)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Lab, Program, state, tcp, until
from lab.addresses import TARGET
from lab.overlay import Overlay

ECHO = 7007


@pytest.fixture(autouse=True)
def root(lab: Lab) -> None:
    if not lab.is_multi_user:
        pytest.skip("needs CAP_SYS_RESOURCE")


@pytest.fixture
def echo(lab: Lab) -> Program:
    return tcp.serve(lab.target, "echo", TARGET.v4, ECHO)


def connect(lab: Lab) -> socket.socket:
    return lab.app.call(socket.create_connection, (TARGET.v4, ECHO), 20.0)


def assert_echoes(sock: socket.socket, word: bytes) -> None:
    sock.settimeout(20)
    sock.sendall(word)
    assert sock.recv(64) == word


@contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """Leave a process with the descriptors that it has; its user may do that (prlimit(2))."""
    numbers = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    used = min(set(range(len(numbers) + 1)) - numbers)  # the first that is free
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    before = ":".join(line.split()[3:5])
    status = Path(f"/proc/{pid}/status").read_text()
    user = status.partition("Uid:")[2].split()[0]

    def limit(value: str, *, check: bool = True) -> None:
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        prlimit = ["prlimit", "--pid", str(pid), f"--nofile={value}"]
        subprocess.run([*become, *prlimit], check=check)

    limit(f"{used}:{before.split(':')[1]}")
    try:
        yield
    finally:
        limit(before, check=False)  # it may have ended


def share_runnable(pid: int) -> float:
    """How often a process wants a processor, whether it gets one or not (proc(5), state R)."""
    states = []
    for _ in range(100):
        states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.01)
    return states.count("R") / len(states)


def shim(lab: Lab, module: str) -> list[int]:
    """The processes that run a module, oldest first: the gate is the last of shim.gate."""
    return sorted(one.pid for one in lab.app.processes() if f"-m {module}" in one.command)


def test_gate_without_descriptors_waits_for_some(lab: Lab, overlay: Overlay, echo: Program) -> None:
    overlay.up(overlay.serve())
    old = connect(lab)
    assert_echoes(old, b"before")
    gate = shim(lab, "shim.gate")[-1]
    with no_descriptor_left(gate):
        new = lab.app.call(socket.socket)
        new.setblocking(False)
        new.connect_ex((TARGET.v4, ECHO))
        until(lambda: new.connect_ex((TARGET.v4, ECHO)) == 0, 20, "a handshake with the kernel")
        new.setblocking(True)
        new.sendall(b"early")
        assert share_runnable(gate) < 0.3
        assert_echoes(old, b"meanwhile")
    new.settimeout(20)
    assert new.recv(64) == b"early"
    assert_echoes(old, b"after")
    with connect(lab) as another:
        assert_echoes(another, b"another")
    for sock in (old, new):
        sock.close()


def test_detector_sees_a_process_that_spins(lab: Lab) -> None:
    program = lab.app.popen([sys.executable, "-c", "print('in', flush=True)\nwhile True: pass"])
    program.says("^in$")
    assert share_runnable(program.pid) > 0.9


def test_client_without_descriptors_refuses_new_flows_and_keeps_the_old(
    lab: Lab, overlay: Overlay, echo: Program
) -> None:
    endpoint = overlay.serve()
    room = 12
    limited = ["prlimit", f"--nofile={64 + room}", *overlay.up_command(endpoint)]
    lab.app.run(limited, env=overlay.sudo, timeout=30)
    overlay.is_up = True
    flows = [connect(lab) for _ in range(room)]
    outcomes = Counter(tcp.outcome(lab.app, TARGET.v4, ECHO) for _ in range(8))
    assert outcomes == {"ENETUNREACH": 8}
    for number, sock in enumerate(flows):
        assert_echoes(sock, b"%d" % number)
    flows.pop().close()
    until(lambda: tcp.outcome(lab.app, TARGET.v4, ECHO) == "connected", 20, "room again")
    for sock in flows:
        assert_echoes(sock, b"after")
        sock.close()
    assert overlay.status()["state"] == "connected"


def test_client_that_does_not_read_loses_new_flows_and_no_old_one(
    lab: Lab, overlay: Overlay, echo: Program
) -> None:
    overlay.up(overlay.serve())
    old = connect(lab)
    assert_echoes(old, b"before")
    client, gate = overlay.status()["pid"], shim(lab, "shim.gate")[-1]
    os.kill(client, signal.SIGSTOP)
    try:
        waiting = [lab.app.call(start_connecting) for _ in range(1500)]
        old.sendall(b"meanwhile")
        assert share_runnable(gate) < 0.3
    finally:
        os.kill(client, signal.SIGCONT)
    old.settimeout(20)
    assert old.recv(64) == b"meanwhile"
    for sock in waiting:
        sock.close()
    with connect(lab) as new:
        assert_echoes(new, b"new")
    assert shim(lab, "shim.gate")[-1] == gate
    old.close()


def start_connecting() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((TARGET.v4, ECHO))
    return sock


def test_monitor_without_descriptors_ends_and_leaves_nothing(lab: Lab) -> None:
    """It makes none itself; to be sent one it needs room for one."""
    before = state.snapshot(lab.app)
    program = hostile(lab, "ask")
    program.says(r"^Marked\(\)$", timeout_s=30)
    os.kill(program.pid, signal.SIGSTOP)
    monitor = shim(lab, "shim.monitor")[-1]
    until(lambda: share_runnable(monitor) == 0.0, 20, "a monitor with nothing to do")
    with no_descriptor_left(monitor):
        os.kill(program.pid, signal.SIGCONT)
        until(lambda: not program.is_alive, 20, "the end of the link")
    until(lambda: not state.diff(before, state.snapshot(lab.app)), 20, "nothing left")


def test_client_of_the_monitor_that_does_not_read_is_left_by_it(lab: Lab) -> None:
    assert hostile(lab, "deaf").says("^ended$", timeout_s=60)


def hostile(lab: Lab, what: str) -> Program:
    script = str(Path(__file__).parent / "lab/hostile.py")
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    return lab.app.popen([sys.executable, script, str(lab.alice.uid), what], env=paths)
