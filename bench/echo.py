"""Round-trip times of ping(8) through the tunnel and on the direct path, in one lab and one run.

    sudo env PYTHONPATH=netns-tests python bench/echo.py [ROUNDS]

app ── router ── server ── target, each a network namespace. ping(8) sends a request every 10 ms and
prints the time of each reply. The paths: the direct one of the kernel, and our server over QUIC.
Compare the ratio to the direct path; the milliseconds depend on the machine.
"""

from __future__ import annotations

import re
import sys
from statistics import median, quantiles

from lab import Host, Lab
from lab.addresses import TARGET
from lab.overlay import Overlay

COUNT = 300


def times_ms(host: Host) -> list[float]:
    """Return the round-trip times of the replies to `COUNT` requests."""
    argv = ["ping", "-n", "-c", str(COUNT), "-i", "0.01", "-W", "5", TARGET.v4]
    said = host.run(argv, check=False, timeout=120).stdout
    return [float(one) for one in re.findall(r"time=([0-9.]+) ms", said)]


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[str, list[float]] = {"direct": [], "quic": []}
    with Lab(direct=True, capture=False) as lab:
        group = lab.service.gid
        lab.server.run(["sysctl", "-qw", f"net.ipv4.ping_group_range={group} {group}"])
        overlay = Overlay(lab)
        endpoint = overlay.serve()
        for number in range(rounds):
            found["direct"] += times_ms(lab.app)
            overlay.up(endpoint, "--dns", "virtual")
            found["quic"] += times_ms(lab.app)
            overlay.down()
            print(f"round {number + 1}", file=sys.stderr, flush=True)
    print(f"{rounds} rounds of {COUNT} requests; milliseconds\n")
    print(f"{'':<10}{'p50':>10}{'p99':>10}{'lost':>10}")
    for way, times in found.items():
        lost = rounds * COUNT - len(times)
        print(f"{way:<10}{median(times):>10.2f}{quantiles(times, n=100)[98]:>10.2f}{lost:>10}")
    ratio = median(found["quic"]) / median(found["direct"])
    print(f"\nquic: {ratio:.1f} times the direct path")


if __name__ == "__main__":
    main()
