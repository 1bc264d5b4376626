"""A scan through the tunnel finds what a scan from the far side finds: each port as it is.

app ─ nc -z over 1 000 ports ─▶ gate ─ session ─▶ server ─▶ target: some open, some filtered
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab import Host, rules, tcp
from lab.addresses import TARGET
from lab.ways import Way

PORTS = range(20000, 21000)
FILTERED = (PORTS[0], 20404)
OPEN = random.Random(3).sample(sorted({*PORTS} - {*FILTERED}), 40)
DROP = f"tcp dport {{ {', '.join(map(str, FILTERED))} }} drop"
FATES = {"succeeded": "open", "refused": "closed", "timed out": "filtered"}


def scan(host: Host, address: str) -> dict[int, str]:
    """Return the fate of each port, as nc(1) tells it."""
    argv = ["nc", "-nzv", "-w", "10", address, f"{PORTS[0]}-{PORTS[-1]}"]
    said = host.run(argv, check=False, timeout=240).stderr
    found = {}
    for line in said.splitlines():
        port = re.search(r"(?:port )?(\d{5}) (?:port|\(tcp\))", line)
        (fate,) = (name for words, name in FATES.items() if words in line)
        assert port is not None, line
        found[int(port[1])] = fate
    return found


@contextmanager
def ports(target: Host, address: str) -> Iterator[None]:
    """Open and filter some ports of the target; the others are closed."""
    with ExitStack() as stack:
        stack.enter_context(rules.arriving(target, DROP))
        for port in OPEN:
            stack.enter_context(tcp.listen(target, address, port))
        yield


OTHERS = (pytest.param(way, marks=pytest.mark.soak) for way in ("run ours", "up sshd"))


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.ways("up ours", "run sshd", *OTHERS)
@pytest.mark.timeout(300)
def test_scan_of_1000_ports_is_that_of_the_far_side(way: Way, family: int) -> None:
    with ports(way.lab.target, TARGET[family]):
        there, here = scan(way.lab.server, TARGET[family]), scan(way.app, TARGET[family])
    assert Counter(there.values()) == {
        "open": len(OPEN),
        "filtered": len(FILTERED),
        "closed": len(PORTS) - len(OPEN) - len(FILTERED),
    }
    assert here == there
