"""Throughput of the gate alone: one flow from an application to the accepted socket and back.

    sudo python bench/gate.py [SECONDS]

Makes a network namespace of its own and starts the real monitor and gate in it; a client that
opens every flow stands in for SSH. Prints Gbit/s each way and CPU seconds per GB of the gate, of
all processes, and of the same transfer over loopback beside it.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from shim import linux, protocol
from shim.protocol.common import Hello
from shim.protocol.gate import CLIENT_OF_GATE, Accepted, Configure, Configured, Open, Opened
from shim.protocol.link import Link, Message
from shim.protocol.monitor import CLIENT_OF_MONITOR, Capture, Down, Welcome

FAR = "203.0.113.7"
UP_PORT, DOWN_PORT = 5001, 5002
CHUNK = bytes(1 << 20)


def wait_for(link: Link) -> tuple[Message, list[int]]:
    while True:
        select.select([link], [], [])
        received = link.receive()
        if received is not None:
            return received


def start_shim() -> tuple[int, Link, Link]:
    """Start the shim and capture everything; return its PID and the links to monitor and gate."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-B", "-m", "shim.launcher"],
        {"PATH": os.defpath},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
    )
    theirs.close()
    monitor = Link(ours, CLIENT_OF_MONITOR)
    monitor.send(Hello(protocol.VERSION))
    message, fds = wait_for(monitor)
    if not isinstance(message, Welcome):
        sys.exit(f"the monitor refuses: {message}")
    gate = Link(socket.socket(fileno=fds[0]), CLIENT_OF_GATE)
    datagrams, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with datagrams, theirs:  # only TCP is measured
        gate.send(Configure(False, ()), (theirs.fileno(),))
    while not isinstance(wait_for(gate)[0], Configured):
        pass
    monitor.send(Capture(True, True, ()))
    wait_for(monitor)
    return launcher, monitor, gate


def accept_one(gate: Link) -> socket.socket:
    """Open the next flow and return its socket, as the client receives it."""
    while True:
        message, fds = wait_for(gate)
        if isinstance(message, Open):
            gate.send(Opened(message.flow))
        elif isinstance(message, Accepted):
            sock = socket.socket(fileno=fds[0])
            sock.setblocking(True)
            return sock


def application(port: int, seconds: float, host: str) -> int:
    """Fork a process that connects, and sends or receives; return its PID."""
    pid = os.fork()
    if pid:
        return pid
    with socket.create_connection((host, port)) as sock:
        if port == UP_PORT:
            send(sock, seconds)
        else:
            drain(sock)
    os._exit(0)


def send(sock: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(CHUNK)


def drain(sock: socket.socket) -> int:
    buffer, total = bytearray(1 << 20), 0
    while count := sock.recv_into(buffer):
        total += count
    return total


def cpu_of(pids: list[int]) -> float:
    """Return the CPU seconds that processes have used so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / ticks


def machine_cpu() -> float:
    """Return the CPU seconds that the machine has used so far, without idle time."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gate_of(launcher: int) -> int:
    """Return the PID of the gate, the only grandchild of the launcher."""
    (gate,) = [gate for one in children(launcher) for gate in children(one)]
    return gate


def measure(
    name: str, sock: socket.socket, child: int, port: int, seconds: float, gates: list[int]
) -> None:
    gate_before, all_before, start = cpu_of(gates), machine_cpu(), time.monotonic()
    if port == UP_PORT:
        total = drain(sock)
    else:
        end, total = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            sock.sendall(CHUNK)
            total += len(CHUNK)
    elapsed = time.monotonic() - start
    gigabytes = total / 1e9
    line = (
        f"{name:<9} {'up' if port == UP_PORT else 'down':<5}{total * 8 / elapsed / 1e9:6.1f} Gbit/s"
    )
    line += f"  all {(machine_cpu() - all_before) / gigabytes:5.2f} CPU s/GB"
    if gates:
        line += f"  gate {(cpu_of(gates) - gate_before) / gigabytes:5.2f} CPU s/GB"
    print(line, flush=True)
    sock.close()
    os.waitpid(child, 0)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    linux.unshare(linux.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for port in (UP_PORT, DOWN_PORT):
        with socket.create_server(("127.0.0.1", port)) as listener:
            child = application(port, seconds, "127.0.0.1")
            measure("loopback", listener.accept()[0], child, port, seconds, [])
    launcher, monitor, gate = start_shim()
    for port in (UP_PORT, DOWN_PORT):
        child = application(port, seconds, FAR)
        measure("gate", accept_one(gate), child, port, seconds, [gate_of(launcher)])
    monitor.send(Down())


if __name__ == "__main__":
    main()
