"""The main job: a machine's traffic through our server over QUIC, and through a stock sshd.

app ──── router ──── server ──── target      no way from app to target but the tunnel
"""

from __future__ import annotations

import json
import os
import signal

import pytest

from lab import Lab, services, tcp, until
from lab.addresses import CLOSED_PORT, NO_ROUTE, SERVER, TARGET
from lab.overlay import Overlay
from lab.services import Web
from lab.ways import Way

BOTH = pytest.mark.ways("up ours", "up sshd")
OURS = pytest.mark.ways("up ours")


@pytest.fixture(scope="module")
def site(way: Way) -> Web:
    return services.web(way.lab, way.lab.target)


@pytest.fixture
def web(lab: Lab) -> Web:
    services.names(lab.target)
    return services.web(lab, lab.target)


# What is up, for whoever uses it.


@BOTH
def test_up_real_programs_work_by_name(way: Way, site: Web) -> None:
    lab = way.lab
    repository = services.repository(lab.target, site.root)
    services.sshd(lab, lab.target)
    curl = ["curl", "--silent", "--show-error", "--fail", "--cacert", site.ca]
    for name in ("www", "v4only", "v6only", "alias"):
        for scheme in ("http", "https"):
            page = lab.app.run([*curl, f"{scheme}://{name}.example.com/"], user=lab.alice).stdout
            assert page == "hello from the lab\n"
    for number, url in enumerate(
        ("https://git.example.com/project.git", f"ssh://git.example.com{repository}")
    ):
        copy = lab.alice.home / f"copy-{number}"
        trust = {"GIT_SSL_CAINFO": str(site.ca)}
        lab.app.run(["git", "clone", url, copy], user=lab.alice, env=trust)
        assert (copy / "README").is_file()


@BOTH
def test_up_by_address_of_both_families(way: Way, site: Web) -> None:
    for address in TARGET:
        assert tcp.outcome(way.app, address, 80) == "connected"
        assert tcp.outcome(way.app, address, CLOSED_PORT) == "ECONNREFUSED"


@BOTH
def test_up_failures_are_honest(way: Way) -> None:
    refused = ["curl", "--silent", "--show-error", f"http://www.example.com:{CLOSED_PORT}/"]
    done = way.app.run(refused, check=False)
    assert done.returncode == 7
    assert "reset" not in done.stderr.lower()
    missing = way.app.run(["dig", "+noall", "+comments", "nothing.example.com"]).stdout
    assert "status: NXDOMAIN" in missing
    v4only = way.app.run(["dig", "+noall", "+comments", "v4only.example.com", "AAAA"]).stdout
    assert "status: NOERROR" in v4only
    assert "ANSWER: 0" in v4only
    assert tcp.outcome(way.app, NO_ROUTE.v4, 80) == "ENETUNREACH"
    assert tcp.outcome(way.app, NO_ROUTE.v6, 80) == "ENETUNREACH"


@BOTH
def test_up_iperf3_each_way(way: Way) -> None:
    services.iperf3(way.lab.target)
    for address in TARGET:
        for is_reverse in (False, True):
            rate = services.throughput_mbit_s(way.app, address, is_reverse=is_reverse)
            assert rate > 5


@OURS
def test_second_instance_is_refused_and_the_first_lives_on(way: Way, site: Web) -> None:
    second = way.overlay.up(way.endpoint, check=False)
    assert second.returncode == 1
    assert second.stderr == (
        "overlay-vpn: overlay-vpn is already up here; run 'overlay-vpn down' first\n"
    )
    assert tcp.outcome(way.app, TARGET.v4, 80) == "connected"


@OURS
def test_other_hosts_have_instances_of_their_own(way: Way) -> None:
    status = way.overlay.cli("status", "--json", host=way.lab.router, check=False).stdout
    assert json.loads(status)["state"] == "down"


# Coming up, in each manner, and going down.


def test_up_status_says_so_and_down_takes_it_down(lab: Lab, overlay: Overlay, web: Web) -> None:
    assert overlay.status() == {**overlay.status(), "schema": 1, "state": "down"}
    assert overlay.cli("status", check=False).returncode == 1
    overlay.up(overlay.serve())
    lab.app.run(["curl", "-4", "--silent", "--fail", "http://www.example.com/"])
    status = overlay.status()
    assert (status["schema"], status["state"], status["transport"]) == (1, "connected", "quic")
    assert status["flows_opened"] == 1
    text = overlay.cli("status").stdout
    assert text.splitlines()[0] == "connected"
    overlay.down()
    assert overlay.status()["state"] == "down"
    assert overlay.cli("down").returncode == 0


@pytest.mark.fidelity("include/exclude CIDR", cell="◐ include")
def test_up_with_prefix_captures_that_prefix_only(lab: Lab, overlay: Overlay, web: Web) -> None:
    endpoint = overlay.serve()
    overlay.up(endpoint, "--route", "203.0.113.0/24")
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert tcp.outcome(lab.app, TARGET.v6, 80) == "ENETUNREACH"
    assert tcp.outcome(lab.app, SERVER.v4, CLOSED_PORT) == "ECONNREFUSED"


@pytest.mark.fidelity("hostname / suffix in policy")
def test_up_with_suffix_answers_those_names_and_forwards_the_rest(
    lab: Lab, overlay: Overlay, web: Web
) -> None:
    home = services.names(
        lab.router, "$ORIGIN home.arpa.\n@ 60 IN SOA a b 1 2 3 4 5\nprinter 60 IN A 192.0.2.77\n"
    )
    endpoint = overlay.serve()
    overlay.up(endpoint, "--route", "example.com")
    lab.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
    for transport in ("+notcp", "+tcp"):
        dig = ["dig", "+short", transport]
        assert lab.app.run([*dig, "printer.home.arpa"]).stdout == "192.0.2.77\n"
        assert lab.app.run([*dig, "www.example.com"]).stdout.startswith("198.1")
    assert "printer.home.arpa" in home.stdout
    assert "example.com" not in home.stdout
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "ENETUNREACH"


def test_up_in_mode_virtual_asks_nobody(lab: Lab, overlay: Overlay) -> None:
    zone = services.names(lab.target)
    overlay.up(overlay.serve(), "--dns", "virtual")
    answer = lab.app.run(["dig", "+short", "nothing.example.com"]).stdout
    assert answer.startswith("198.1")
    assert "nothing" not in zone.stdout


def test_interrupted_while_connecting_comes_up_no_more(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    os.kill(endpoint.program.pid, signal.SIGSTOP)
    try:
        program = lab.app.popen(overlay.up_command(endpoint), env=overlay.sudo)
        until(lambda: overlay.status()["state"] == "connecting", 10, "it to be connecting")
        os.kill(program.pid, signal.SIGINT)
        assert program.wait(10) == 130
        assert "Traceback" not in program.stderr
    finally:
        os.kill(endpoint.program.pid, signal.SIGCONT)
    until(lambda: overlay.status()["state"] == "down", 15, "nothing to be left")
