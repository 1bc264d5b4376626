"""Sends every probe again and again; a program to be run on the app, at least 100 packets a second.

It also keeps on sending on sockets that were connected before all else, if they could be.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

PATH = Path(__file__)
_PER_SECOND = 150


def main() -> None:
    """Probe until killed; say "round N" after each round."""
    sys.path.insert(0, str(PATH.parent.parent))
    from lab.addresses import TARGET
    from lab.probes import BOUND, ONLY_ROOT_CAN, PROBES

    probes = [probe for name, probe in {**PROBES, **BOUND}.items() if name != ONLY_ROOT_CAN]
    old = []
    for address in TARGET:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        old.append(socket.socket(family, socket.SOCK_DGRAM))
        old[-1].connect((address, 4002))
        with suppress(OSError):
            old.append(socket.create_connection((address, 80), 2))
            old[-1].setblocking(False)
    rounds = 0
    while True:
        begin_s = time.monotonic()
        for probe in probes:
            probe()
        for one in old:
            with suppress(OSError):
                one.send(b"old")
        rounds += 1
        print("round", rounds, flush=True)
        time.sleep(max(0.0, len(probes) / _PER_SECOND - (time.monotonic() - begin_s)))


if __name__ == "__main__":
    main()
