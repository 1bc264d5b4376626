"""UDP through the tunnel and on the direct path, in one lab and one run: medians of rounds.

    sudo env PYTHONPATH=netns-tests python bench/udp.py [ROUNDS]

app ── router ── server ── target, each a network namespace. iperf3 sends datagrams of 1 200 bytes
in each direction, at a rate that every path carries and at one that none does. Printed are the
rate that arrives, and the loss. The paths: the direct one of the kernel, and our server with the
datagrams of the application in datagrams of the transport, or in its stream.
"""

from __future__ import annotations

import json
import sys
from statistics import median

from lab import Host, Lab, services
from lab.addresses import TARGET
from lab.overlay import Endpoint, Overlay

SECONDS = 2
PAYLOAD_BYTES = 1200
RATES = ("10M", "1G")
WAYS = ("direct", "datagram", "stream")


def measure(host: Host, rate: str, *, is_reverse: bool) -> tuple[float, float]:
    """Return the rate that arrived, in Mbit/s, and the loss in percent."""
    words = ["--bitrate", rate, "--length", PAYLOAD_BYTES, "--time", SECONDS]
    argv = ["iperf3", "--json", "--udp", "--client", TARGET.v4, *words]
    argv += ["--reverse"] if is_reverse else []
    end = json.loads(host.run([*map(str, argv)], timeout=60).stdout)["end"]["sum"]
    lost = float(end["lost_percent"])
    sent_mbit_s = float(end["bits_per_second"]) / 1e6
    return sent_mbit_s * (100 - lost) / 100, lost


def rounds_of(overlay: Overlay, endpoint: Endpoint, way: str) -> list[tuple[float, float]]:
    """Measure one path once, at each rate and in each direction."""
    if way != "direct":
        overlay.up(endpoint, "--dns", "virtual", "--udp", way)
    found = []
    for rate in RATES:
        for is_reverse in (False, True):
            server = services.iperf3(overlay.lab.target, TARGET.v4)
            found.append(measure(overlay.lab.app, rate, is_reverse=is_reverse))
            server.stop()
    if way != "direct":
        overlay.down()
    return found


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in WAYS}
    with Lab(direct=True, capture=False) as lab:
        overlay = Overlay(lab)
        endpoint = overlay.serve()
        for number in range(rounds):
            for way in WAYS:
                found[way].append(rounds_of(overlay, endpoint, way))
                print(f"round {number + 1} {way}", file=sys.stderr, flush=True)
    print(f"medians of {rounds}; Mbit/s that arrive (% lost), datagrams of {PAYLOAD_BYTES} bytes\n")
    heads = [f"{rate} {direction}" for rate in RATES for direction in ("up", "down")]
    print(f"{'':<10}" + "".join(f"{head:>18}" for head in heads))
    for way in WAYS:
        columns = zip(*found[way], strict=True)
        cells = [
            f"{median(rate for rate, _ in one):.1f} ({median(lost for _, lost in one):.1f})"
            for one in columns
        ]
        print(f"{way:<10}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
