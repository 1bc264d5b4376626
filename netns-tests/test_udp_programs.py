"""Real programs over UDP: a clock is set, a page comes by HTTP/3, losses are those of the far side.

app ─ chronyd, HTTP/3, iperf3, nc ─▶ gate ─ session ─▶ server ─▶ target: their servers
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import pytest

from lab import Host, Lab, http3, rules, services, udp, until
from lab.addresses import TARGET
from lab.services import Web
from lab.ways import Way

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
OURS = pytest.mark.ways("up ours", "run ours")
EVERY = 10
LOSS = 100 / EVERY
DROP = f"udp %s 5201 meta length > 500 numgen inc mod {EVERY} 0 drop"


@pytest.fixture(scope="module")
def web(way: Way) -> Iterator[Web]:
    target = way.lab.target
    web = services.web(way.lab, target)
    base = web.root.parent
    argv = [sys.executable, http3.__file__, "serve", base / "site.pem", base / "site.key"]
    program = target.popen([*argv, *TARGET])
    program.says("^ready$")
    yield web
    for one in (program, web.program):
        one.stop()


@OURS
@FAMILIES
def test_page_comes_over_http3(way: Way, web: Web, family: int) -> None:
    for address in (TARGET[family], "www.example.com"):
        argv = [sys.executable, http3.__file__, "get", web.ca, address, "www.example.com"]
        assert way.app.run(argv, timeout=40).stdout == http3.PAGE.decode()


@pytest.mark.ways("up sshd", "run sshd")
@FAMILIES
def test_over_an_sshd_http3_fails_at_once_and_the_page_comes_over_tcp(
    way: Way, web: Web, family: int
) -> None:
    """Refused by ICMP, as a browser needs it that is to try something else."""
    assert udp.outcome(way.app, TARGET[family], http3.PORT, timeout_s=20) == "ECONNREFUSED"
    fetch = ["curl", "-sS", "--cacert", web.ca, "https://www.example.com/"]
    assert way.app.run(fetch).stdout == "hello from the lab\n"


@OURS
@FAMILIES
def test_clock_is_compared_with_one_at_the_far_end(way: Way, family: int) -> None:
    lab, pid = way.lab, way.lab.tmp / f"chronyd-{family}"
    serving = [
        "local stratum 5",
        "allow all",
        "cmdport 0",
        "bindcmdaddress /",
        "user root",
        f"pidfile {pid}-server",
    ]
    server = lab.target.popen(["chronyd", "-d", "-x", *serving])
    server.says("Disabled control of system clock")
    asking = [
        f"server {TARGET[family]} iburst",
        "bindcmdaddress /",
        "user root",
        f"pidfile {pid}-client",
    ]
    done = way.app.run(["chronyd", "-Q", "-t", "30", *asking], timeout=60)
    offset = re.search(r"System clock wrong by (-?[0-9.]+) seconds", done.stderr)
    assert offset is not None, done.stderr
    assert abs(float(offset[1])) < 1
    server.stop()


def lost_percent(host: Host, address: str, *options: str) -> float:
    """Have iperf3 send some 150 datagrams, and return what its server has missed."""
    argv = ["iperf3", "--json", "-u", "-c", address, "-b", "1M", "-l", "800", "-t", "1", *options]
    results = []

    def is_measured() -> bool:
        results.append(json.loads(host.run(argv, check=False, timeout=40).stdout))
        # The server may not have heard yet that the test before is over.
        return "busy" not in results[-1].get("error", "")

    until(is_measured, 30, "the iperf3 server to be free")
    assert "sum" in results[-1].get("end", {}), json.dumps(results[-1])
    return float(results[-1]["end"]["sum"]["lost_percent"])


@OURS
@FAMILIES
def test_losses_are_those_of_the_far_side(way: Way, family: int) -> None:
    target, address = way.lab.target, TARGET[family]
    server = services.iperf3(target, address)
    assert lost_percent(way.app, address) < LOSS / 2  # the detector
    ways = ((target, "dport", ()), (way.lab.server, "sport", ("--reverse",)))
    for where, port, direction in ways:
        with rules.arriving(where, DROP % port):
            there = lost_percent(way.lab.server, address, *direction)
            here = lost_percent(way.app, address, *direction)
        assert there == pytest.approx(LOSS, abs=LOSS / 2)
        assert here == pytest.approx(there, abs=LOSS / 2)
    server.stop()


@OURS
@FAMILIES
def test_netcat_talks_both_ways(way: Way, family: int) -> None:
    listener = way.lab.target.popen(["nc", "-n", "-u", "-l", TARGET[family], "4000"], stdin="yes\n")
    until(lambda: _listens(way.lab), 10, "the listener")
    asking = way.app.popen(["nc", "-n", "-u", TARGET[family], "4000"], stdin="there?\n")
    listener.says("^there[?]$")
    asking.says("^yes$")
    for one in (asking, listener):
        one.stop()


def _listens(lab: Lab) -> bool:
    return ":4000" in lab.target.run(["ss", "-Hunl"]).stdout
