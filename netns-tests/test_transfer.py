"""Much data arrives each way as it was sent, and a reader that stops costs no memory.

app ──── router ──── server ──── target
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from test_shim_process import instance

from lab import Lab, tcp
from lab.addresses import TARGET
from lab.overlay import Overlay

STOPPED_S = 30
MEBIBYTE = 1 << 20
MAY_GROW = 64 * MEBIBYTE


def resident(pids: list[int]) -> dict[int, int]:
    """Resident bytes of each process."""
    sizes = {}
    for pid in pids:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        sizes[pid] = int(fields[1]) * 4096
    return sizes


def up(overlay: Overlay, transport: str) -> list[int]:
    """Take a tunnel up; every process of ours: of the client's side, and our server, if it is."""
    endpoint = overlay.serve() if transport == "quic" else overlay.serve_ssh()
    overlay.up(endpoint)
    pids = instance(overlay.status()["pid"])
    server = [endpoint.program.pid] if transport == "quic" else []
    return [pids.client, pids.launcher, pids.monitor, pids.gate, *server]


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("transport", "each_way"),
    [
        ("quic", 50_000_000),
        ("ssh", 200_000_000),
        pytest.param("quic", 200_000_000, marks=pytest.mark.soak),
    ],
)
@pytest.mark.lab(capture=False)
def test_much_data_each_way_arrives_equal(
    lab: Lab, overlay: Overlay, transport: str, each_way: int
) -> None:
    pids = up(overlay, transport)
    server = tcp.serve(lab.target, "exchange", TARGET.v4, 7000, each_way)
    before = resident(pids)
    near, _ = tcp.exchange(lab.app, TARGET.v4, 7000, each_way, timeout_s=150)
    far = json.loads(server.says(r"^\{.*\}$")[0])
    assert near["received"] == far["received"] == each_way
    assert near["received_sha256"] == far["sent_sha256"]
    assert far["received_sha256"] == near["sent_sha256"]
    after = resident(pids)
    assert {
        pid: after[pid] - before[pid] for pid in pids if after[pid] - before[pid] > MAY_GROW
    } == {}


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["quic", "ssh"])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.lab(capture=False)
def test_reader_that_stops_stops_the_sender(
    lab: Lab, overlay: Overlay, transport: str, direction: str
) -> None:
    pids = up(overlay, transport)
    near, far = tcp.pair(lab.app, lab.target, TARGET.v4)
    sender, reader = (near, far) if direction == "up" else (far, near)
    before = resident(pids)
    sent = fill(sender, quiet_s=2)
    assert 0 < sent < 256 * MEBIBYTE
    end = time.monotonic() + STOPPED_S - 2
    while time.monotonic() < end:
        assert fill(sender, quiet_s=0.5) <= MEBIBYTE  # what a window still trickles
        grown = {pid: size - before[pid] for pid, size in resident(pids).items()}
        assert max(grown.values()) < MAY_GROW, grown
        time.sleep(2)
    assert drain(reader, sent) >= sent
    sender.settimeout(10)
    sender.sendall(b"and on it goes")
    near.close()
    far.close()


def fill(stream: socket.socket, quiet_s: float) -> int:
    """Send until nothing goes in for a while; returns the bytes that went in."""
    stream.settimeout(quiet_s)
    block, total = bytes(MEBIBYTE), 0
    try:
        while True:
            total += stream.send(block)
    except TimeoutError:
        return total


def drain(stream: socket.socket, count: int) -> int:
    stream.settimeout(60)
    total = 0
    while total < count:
        total += len(stream.recv(MEBIBYTE))
    return total
