"""A far end, or an own network, of one family: what is not there is said at once.

app ──── router ──── server ──── target      one family is taken away on one of the links
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Host, Lab, no_ipv6, services, tcp
from lab.addresses import APP, CLOSED_PORT, ROUTER, SERVER, TARGET
from lab.overlay import PROGRAM, Overlay
from lab.services import Web

SLACK_S = 0.5
NAME, PAGE = "www.example.com", "hello from the lab\n"
BLACKHOLE = "IPv6 blackhole/REJECT when v4-only"
OVER = pytest.mark.parametrize(
    "server", ["ours", pytest.param("sshd", marks=pytest.mark.fidelity(BLACKHOLE, over="sshd"))]
)
HAPPY = ["curl", "-sS", "--happy-eyeballs-timeout-ms", "20000", "-o", "/dev/null", "-w"]
HAPPY += ["%{remote_ip} %{time_connect}"]
"""curl that waits so long for IPv6 before it tries IPv4, unless it hears something."""


@pytest.fixture
def web(lab: Lab) -> Web:
    services.names(lab.target)
    return services.web(lab, lab.target)


@pytest.fixture
def v4_server(lab: Lab) -> Iterator[Host]:
    """The server, without a way to any IPv6 address behind it."""
    lab.server.run(["ip", "-6", "route", "del", "2001:db8:3::/64", "dev", "to-target"])
    assert tcp.outcome(lab.server, TARGET.v6, 80) == "ENETUNREACH"
    yield lab.server
    route = ["2001:db8:3::/64", "dev", "to-target", "proto", "kernel", "metric", "256"]
    lab.server.run(["ip", "-6", "route", "add", *route])


def assert_costs_nothing(lab: Lab) -> None:
    assert any(costs_nothing(lab) for _ in range(3))  # the machine may have other things to do


def costs_nothing(lab: Lab) -> bool:
    started_s = time.monotonic()
    assert tcp.outcome(lab.app, TARGET.v6, 80) == "ENETUNREACH"
    unreachable_s = time.monotonic() - started_s
    started_s = time.monotonic()
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    refused_s = time.monotonic() - started_s
    done = lab.app.run([*HAPPY, f"http://{NAME}/"]).stdout.split()
    plain = lab.app.run([*HAPPY, "http://v4only.example.com/"]).stdout.split()
    is_fast = float(done[1]) < float(plain[1]) + SLACK_S
    return is_fast and unreachable_s < refused_s + SLACK_S


@pytest.mark.fidelity(BLACKHOLE)
@OVER
def test_far_end_without_ipv6_says_so_at_once(
    lab: Lab, v4_server: Host, overlay: Overlay, web: Web, server: str
) -> None:
    is_ours = server == "ours"
    endpoint = overlay.serve() if is_ours else overlay.serve_ssh()
    overlay.up(endpoint, *(() if is_ours else ("--dns-server", TARGET.v4)))
    # A plain sshd cannot be asked for routes: there the name has both, and IPv6 fails at once.
    found = lab.app.run(["dig", "+short", NAME, "AAAA"]).stdout.split()
    assert len(found) == (0 if is_ours else 1)
    assert lab.app.run(["dig", "+short", NAME, "A"]).stdout.startswith("198.1")
    assert_costs_nothing(lab)


def test_command_hears_it_too(lab: Lab, v4_server: Host, overlay: Overlay, web: Web) -> None:
    endpoint = overlay.serve()
    script = f"dig +short {NAME} AAAA; nc -vz {TARGET.v6} 80 2>&1; curl -sS http://{NAME}/"
    words = [endpoint.target, *endpoint.pin, "-i", overlay.identity, "--", "sh", "-c", script]
    done = lab.app.run([PROGRAM, "run", *words], user=lab.alice)
    said, page = done.stdout.splitlines()
    assert re.search("Network is unreachable", said)
    assert f"{page}\n" == PAGE


@contextmanager
def without(lab: Lab, address: str, family: str) -> Iterator[None]:
    """Take one family away from the app's own network."""
    is_v6 = family == "-6"
    default = ["default", "via", ROUTER.v6 if is_v6 else ROUTER.v4]
    own = [f"{address}/64" if is_v6 else f"{address}/24", "dev", "eth0"]
    lab.app.run(["ip", family, "address", "del", *own])
    lab.app.run(["ip", family, "route", "del", *default], check=False)  # IPv4 takes it along
    yield
    lab.app.run(["ip", family, "address", "add", *own, *(["nodad"] if is_v6 else [])])
    lab.app.run(["ip", family, "route", "add", *default])


def test_own_network_of_ipv6_alone_carries_both(lab: Lab, overlay: Overlay, web: Web) -> None:
    with without(lab, APP.v4, "-4"):
        assert tcp.outcome(lab.app, ROUTER.v4, 80) == "ENETUNREACH"
        overlay.up(overlay.serve(address=SERVER.v6))
        for address in TARGET:
            assert tcp.outcome(lab.app, address, 80) == "connected"
            assert tcp.outcome(lab.app, address, CLOSED_PORT) == "ECONNREFUSED"
        for name in (NAME, "v4only.example.com", "v6only.example.com"):
            assert lab.app.run(["curl", "-sS", f"http://{name}/"]).stdout == PAGE
        overlay.down()


def test_own_network_of_ipv4_alone_carries_both(lab: Lab, overlay: Overlay, web: Web) -> None:
    with without(lab, APP.v6, "-6"):
        assert tcp.outcome(lab.app, ROUTER.v6, 80) == "ENETUNREACH"
        overlay.up(overlay.serve())
        assert tcp.outcome(lab.app, TARGET.v6, 80) == "connected"
        assert lab.app.run(["curl", "-sS", "http://v6only.example.com/"]).stdout == PAGE
        overlay.down()


def test_kernel_without_ipv6_has_a_tunnel_for_ipv4(lab: Lab, overlay: Overlay, web: Web) -> None:
    """For a machine and for a command: `ipv6.disable=1`."""
    without = (sys.executable, no_ipv6.PATH)
    script = "import socket; socket.socket(socket.AF_INET6)"
    shown = lab.app.run([*without, sys.executable, "-c", script], check=False)
    assert "Address family not supported by protocol" in shown.stderr  # the stand-in
    curl = ["curl", "-sS", "--fail", f"http://{NAME}/"]
    endpoint = overlay.serve()
    client = lab.app.popen(
        [*without, *overlay.up_command(endpoint, "--foreground")], env=overlay.sudo
    )
    overlay.is_up = True
    client.says("^connected$", timeout_s=30)
    assert lab.app.run([*without, *curl]).stdout == PAGE
    overlay.down()
    run = [PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", overlay.identity, "--", *curl]
    assert lab.app.run([*without, *run], user=lab.alice).stdout == PAGE
