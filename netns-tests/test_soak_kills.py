"""A thousand random kills and restarts under load: nothing gets out, is left, or grows.

app ──── router ──── server ──── target      the capture is on the router's link to the app

Run by `make soak`. The seed is printed; the steps are the same for the same seed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab, prober, services, state, tcp, until
from lab.addresses import TARGET
from lab.capture import leaks
from lab.overlay import Endpoint, Overlay
from lab.processes import privileged_side

SEED = 20
STEPS = 1000
WITHIN_S = 60.0

# Downloads again and again, whatever comes of it.
LOAD = """
import sys, urllib.request
while True:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            while answer.read(65536):
                pass
    except OSError:
        pass
"""


@dataclass(frozen=True)
class Use:
    """What a process holds: descriptors, and resident memory in KiB."""

    descriptors: int
    resident_kib: int

    def __lt__(self, limit: Use) -> bool:
        return self.descriptors < limit.descriptors and self.resident_kib < limit.resident_kib


def use_of(pid: int) -> Use:
    status = Path(f"/proc/{pid}/status").read_text()  # proc(5)
    resident_kib = int(status.partition("VmRSS:")[2].split()[0])
    return Use(len(os.listdir(f"/proc/{pid}/fd")), resident_kib)


def traces(lab: Lab) -> list[str]:
    """What differs on the app, but for sockets: those of the load come and go."""
    found = state.diff(lab.before[lab.app], state.snapshot(lab.app))
    return [line for line in found if "app: socket" not in line]


def left(lab: Lab) -> list[str]:
    """The traces but for the three small files that killing the launcher leaves (SECURITY.md)."""
    return [line for line in traces(lab) if ": file" not in line]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", [(), ("--kill-switch", "--lan", "block")], ids=["open", "on"])
def test_random_kills_and_restarts_under_load(
    lab: Lab, overlay: Overlay, options: tuple[str, ...]
) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    endpoint = overlay.serve()
    server = endpoint.program.pid
    idle = use_of(server)
    dice = random.Random(SEED)
    print("seed", SEED)
    for address in TARGET:
        host = f"[{address}]" if ":" in address else address
        lab.app.popen([sys.executable, "-c", LOAD, f"http://{host}/"])
    overlay.up(endpoint, *options)
    if options:
        lab.app.popen([sys.executable, prober.PATH]).says("^round 1$")
    seen = len(lab.outer.packets())
    done: Counter[str] = Counter()
    early: Use | None = None
    for number in range(STEPS):
        what = step(lab, overlay, endpoint, options, dice)
        done[what] += 1
        if number % 50 == 49:
            packets = lab.outer.packets()
            if options:
                assert [*map(str, leaks(packets[seen:], {endpoint.flow}))] == [], number
            seen = len(packets)
        if number == STEPS // 5:
            early = use_of(server)
    print(done)
    assert early is not None
    lab.app.stop_programs()
    overlay.down()
    until(lambda: not traces(lab), WITHIN_S, "no trace")
    # With nobody there any more, as soon as the server has noticed who was killed.
    limit = Use(idle.descriptors + 5, int(early.resident_kib * 1.25))
    until(lambda: use_of(server) < limit, WITHIN_S, f"at most {limit}")


def step(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, options: tuple[str, ...], dice: random.Random
) -> str:
    """Kill one process, or take it all down and up; then bring up what has gone."""
    client = overlay.status()["pid"]
    pids = [client, *privileged_side(lab.app)]
    place = dice.randrange(len(pids) + 1)
    if place == len(pids):
        if not options:  # with the switch, only a kill may be what ends it
            overlay.down()
        what = "down"
    else:
        os.kill(pids[place], signal.SIGKILL)
        what = f"kill {place}"

    def has_settled() -> bool:
        if overlay.status()["state"] == "connected":
            return tcp.outcome(lab.app, TARGET.v4, 80, timeout_s=1) == "connected"
        if not privileged_side(lab.app):
            # A process that ends has lost its name before its devices (exit(2)).
            until(lambda: options or not left(lab), 10, f"nothing to be left of {what}")
            overlay.up(endpoint, *options)
        return False

    until(has_settled, WITHIN_S, f"a tunnel after {what}")
    return what
