"""Packets that are routed in from a bridge are as those of the machine itself.

container ── bridge ── app ──── router ──── server ──── target

`up` captures what the machine forwards like what it sends. `lab.bridge` connects a container as
docker does. The same dialogue passes over a plain kernel path, where nothing of ours runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from test_paths import BULK, both_ways, echoed

from lab import Host, Lab, ask, services, tcp, until
from lab.addresses import APP, CLOSED_PORT, NO_ROUTE, SERVER, TARGET
from lab.bridge import CONTAINER, PUBLISHED, container, routed_back
from lab.capture import leaks
from lab.overlay import Overlay
from lab.probes import PROBES, RESOLVER

SWITCH = ("--kill-switch", "--lan", "block")
MASQUERADED = pytest.mark.parametrize("is_masqueraded", [True, False], ids=["nat", "routed"])


@pytest.fixture
def far(lab: Lab) -> Iterator[None]:
    """What the container wants to reach; anybody may ping from the server."""
    services.names(lab.target)
    services.web(lab, lab.target)
    allow = "net.ipv4.ping_group_range={}"
    lab.server.run(["sysctl", "-qw", allow.format("0 2147483647")])
    yield
    lab.server.run(["sysctl", "-qw", allow.format("1 0")])


def ping(box: Host, address: str, size: int = 56) -> subprocess.CompletedProcess[str]:
    argv = ["ping", "-n", "-c3", "-i0.2", "-W5", "-s", str(size), address]
    return box.run(argv, check=False, timeout=30)


def dialogue(lab: Lab, box: Host, *, bulk: int = BULK) -> None:
    """TCP, UDP and ping of both families, much and little, and what is refused."""
    for address in TARGET:
        near, other = tcp.pair(box, lab.target, address)
        with near, other:
            both_ways(near, other, bulk)
        assert tcp.outcome(box, address, CLOSED_PORT) == "ECONNREFUSED"
        for size in (1, 1200, 1400, 9000):
            assert echoed(lab, address, size, box) == size
        for size in (56, 4000):
            assert ping(box, address, size).returncode == 0


def names(box: Host) -> None:
    """A name is told by any resolver, and leads to what it is a name of."""
    for resolver in (TARGET.v4, TARGET.v6, RESOLVER):
        with ask.datagrams(box, resolver) as sock:
            address = ask.resolve(sock, "www.example.com")
            assert tcp.outcome(box, address, 80) == "connected"


@pytest.mark.lab(direct=True, capture=False)
def test_dialogue_passes_over_a_plain_kernel_path(lab: Lab, far: None) -> None:
    with container(lab) as box:
        dialogue(lab, box)
    with container(lab, is_masqueraded=False) as box, routed_back(lab):
        dialogue(lab, box)


@pytest.mark.fidelity("docker/bridge traffic included on request")
@MASQUERADED
def test_container_is_captured(lab: Lab, overlay: Overlay, far: None, is_masqueraded: bool) -> None:
    endpoint = overlay.serve()
    overlay.up(endpoint)
    seen = len(lab.outer.packets())
    for mtu in (1280, 1500, 9000) if is_masqueraded else (1500,):
        with container(lab, mtu=mtu, is_masqueraded=is_masqueraded) as box:
            dialogue(lab, box, bulk=1_000_000)
            names(box)
            for address in NO_ROUTE:
                assert tcp.outcome(box, address, 80) == "ENETUNREACH"
    assert leaks(lab.outer.packets()[seen:], [endpoint.flow]) == []


@pytest.mark.lab(rp_filter=1)
def test_container_is_captured_with_strict_reverse_path_filter(
    lab: Lab, overlay: Overlay, far: None
) -> None:
    overlay.up(overlay.serve())
    with container(lab) as box:
        dialogue(lab, box, bulk=100_000)
        names(box)


def test_prefix_and_names_are_captured_for_containers_too(
    lab: Lab, overlay: Overlay, far: None
) -> None:
    overlay.up(overlay.serve(), "--route", "203.0.113.0/24", "--route", "example.com")
    with container(lab) as box:
        assert tcp.outcome(box, TARGET.v4, 80) == "connected"
        assert tcp.outcome(box, TARGET.v6, 80) == "ENETUNREACH"
        assert tcp.outcome(box, SERVER.v4, CLOSED_PORT) == "ECONNREFUSED"
        names(box)


@pytest.mark.lab(direct=True)
def test_switch_holds_for_containers_whatever_is_killed(
    lab: Lab, overlay: Overlay, far: None
) -> None:
    endpoint = overlay.serve()

    def leaked(since: int) -> list[str]:
        return [*map(str, leaks(lab.outer.packets()[since:], [endpoint.flow]))]

    def probe(box: Host) -> None:
        for kind, one in PROBES.items():
            if kind != "ethernet":
                box.call(one)

    with container(lab) as box:
        # Before: the detector sees them.
        seen = len(lab.outer.packets())
        probe(box)
        until(lambda: len(leaked(seen)) > 8, 15, "the probes while nothing is up")
        overlay.up(endpoint, *SWITCH)
        seen = len(lab.outer.packets())
        probe(box)
        dialogue(lab, box, bulk=100_000)
        names(box)
        assert leaked(seen) == []
        status = overlay.status()
        os.kill(status["pid"], signal.SIGKILL)
        until(lambda: overlay.status()["state"] == "blocked", 10, "the end of it")
        probe(box)
        assert tcp.outcome(box, TARGET.v4, 80, timeout_s=1) != "connected"
        assert leaked(seen) == []
        overlay.down()
        seen = len(lab.outer.packets())
        probe(box)
        until(lambda: leaked(seen), 15, "the probes, once the switch is off")


def test_published_port_is_reached_from_networks_that_are_not_behind_the_default_route(
    lab: Lab, overlay: Overlay, far: None
) -> None:
    with container(lab) as box:
        listener = tcp.listen(box, CONTAINER.v4, 80)
        with listener:
            assert tcp.outcome(lab.router, APP.v4, PUBLISHED) == "connected"
            assert tcp.outcome(lab.server, APP.v4, PUBLISHED) == "connected"
            overlay.up(overlay.serve())
            assert tcp.outcome(lab.router, APP.v4, PUBLISHED) == "connected"
            # From farther away it is not: nothing tells its answer from a new packet.
            assert tcp.outcome(lab.server, APP.v4, PUBLISHED, 3) == "timeout"
            overlay.down()
            assert tcp.outcome(lab.server, APP.v4, PUBLISHED) == "connected"
