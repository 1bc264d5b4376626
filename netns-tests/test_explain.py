"""What `route get` and `dns query` say is what the kernel, the wire and the far end show.

app ──── router ──── server ──── target      the capture is on the router's link to the app
"""

from __future__ import annotations

import json
import os
import signal
from ipaddress import ip_address
from socket import IPPROTO_TCP
from typing import Any

import pytest
from test_reconnect import end, wait_for
from test_run import Runs

from lab import Lab, Program, services, tcp, until
from lab.addresses import CLOSED_PORT, ROUTER, SERVER, TARGET
from lab.ask import POOL4
from lab.host import Host
from lab.overlay import PROGRAM, Endpoint, Overlay
from shim.protocol import GATEWAY4

PORT = 80
NOT_OURS = "www.example.net"

pytestmark = pytest.mark.timeout(180)
"""Each question is a program that starts: many of them, on a machine that is busy elsewhere."""


class Asker:
    """Asks the command line, of the machine or of a run, and looks at the wire."""

    def __init__(self, lab: Lab, host: Host, cli: Any, more: tuple[str, ...] = ()) -> None:
        self.lab, self.host, self.cli, self.more = lab, host, cli, more

    def route(self, destination: str) -> dict[str, Any]:
        said = self.cli("route", "get", destination, "--json", *self.more).stdout
        document: dict[str, Any] = json.loads(said)
        assert document["schema"] == 1
        return document

    def verdict(self, address: str, port: int = PORT) -> dict[str, Any]:
        (found,) = self.route(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")[
            "verdicts"
        ]
        return dict(found)

    def query(self, *words: str, status: int = 0) -> dict[str, Any]:
        done = self.cli("dns", "query", *words, "--json", *self.more, check=False)
        assert done.returncode == status, done
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["schema"] == 1
        return document

    def dns(self) -> dict[str, Any]:
        return dict(json.loads(self.cli("dns", "status", "--json", *self.more).stdout))

    def packets_to(self, address: str) -> int:
        """How many segments of TCP to an address have left the app beside the tunnel."""
        packed = ip_address(address).packed
        at, protocol = (slice(30, 34), 23) if len(packed) == 4 else (slice(38, 54), 20)
        frames = [one.frame for one in self.lab.outer.packets() if not one.is_outgoing]
        return sum(one[at] == packed and one[protocol] == IPPROTO_TCP for one in frames)

    def prove(self, verdict: str, address: str, port: int = PORT) -> dict[str, Any]:
        """Ask, compare with what the kernel says, connect, and look where that went."""
        said = self.verdict(address, port)
        assert said["verdict"] == verdict, said
        words = ["ip", "-json", "route", "get", address, "ipproto", "tcp", "dport", str(port)]
        done = self.host.run(words, check=False)
        assert (said["route"] is None) == (done.returncode != 0)
        if said["route"] is not None:
            (kernel,) = json.loads(done.stdout)
            for ours, theirs in (("device", "dev"), ("gateway", "gateway"), ("source", "prefsrc")):
                assert said["route"][ours] == kernel.get(theirs, "")
            assert said["route"]["table"] == int(kernel.get("table", 254))
        before = self.packets_to(address)
        tcp.outcome(self.host, address, port, 3)
        assert (self.packets_to(address) > before) == (verdict == "direct")
        return said


def rule(said: dict[str, Any]) -> tuple[int, bool]:
    found = said["route"]["rule"]
    return found["priority"], found["is_ours"]


@pytest.fixture
def zone(lab: Lab) -> Program:
    return services.names(lab.target)


@pytest.fixture
def asker(lab: Lab, overlay: Overlay) -> Asker:
    return Asker(lab, lab.app, overlay.cli)


def asked(zone: Program, question: str) -> int:
    return zone.stdout.count(f"asked {question}.\n")


@pytest.mark.fidelity("server itself auto-excluded")
def test_machine_whose_traffic_goes_through_the_tunnel(
    lab: Lab, overlay: Overlay, zone: Program, asker: Asker
) -> None:
    before = asker.prove("direct", ROUTER.v4, CLOSED_PORT)
    assert "not up" in before["why"]
    for words in (("dns", "status"), ("dns", "query", "www.example.com")):
        done = overlay.cli(*words, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "overlay-vpn: overlay-vpn is not up here; see 'overlay-vpn status'\n"
    endpoint = overlay.serve()
    overlay.up(endpoint, "--host", f"db.example={TARGET.v4}:5432")
    for address in TARGET:
        said = asker.prove("tunnel", address)
        assert rule(said) == (7213, True)
        assert f"{SERVER.v4}:4422 (quic)" in said["why"]
    for address in ROUTER:
        assert rule(asker.prove("direct", address, CLOSED_PORT)) == (7212, True)
    said = asker.prove("tunnel", SERVER.v4, CLOSED_PORT)
    assert (said["outer"]["device"], said["outer"]["gateway"]) == ("eth0", ROUTER.v4)
    assert rule(asker.prove("resolver", TARGET.v4, 53)) == (7201, True)
    assert asker.prove("refused", "198.19.77.77")["why"].endswith("stands for no name")
    assert asker.verdict("127.0.0.1")["verdict"] == "local"
    names_have_their_virtual_addresses(lab, asker)
    answers_say_which_way_they_took(zone, asker)
    text = overlay.cli("route", "get", f"{SERVER.v4}:22").stdout
    assert text.splitlines()[1] == f"{SERVER.v4}:22  tunnel: {said['why']}"
    assert f"via {ROUTER.v4} dev eth0" in text
    if lab.is_multi_user:
        for words in (("route", "get", TARGET.v4), ("dns", "status"), ("dns", "query", "a.b")):
            other = lab.app.run([PROGRAM, *words], user=lab.service, check=False)
            assert (other.returncode, other.stdout) == (77, "")
    while_there_is_no_session(lab, overlay, endpoint, asker)
    logs = [one.read_text() for one in lab.tmp.glob("home/*/.local/state/overlay-vpn/*.log")]
    assert logs
    assert not any("example.com" in one or TARGET.v4 in one for one in logs)


def names_have_their_virtual_addresses(lab: Lab, asker: Asker) -> None:
    used = asker.dns()["pool"]["used"]
    said = asker.route("www.example.com:80")
    assert (said["is_assigned"], said["name"]) == (False, "www.example.com")
    assert [one["verdict"] for one in said["verdicts"]] == ["tunnel", "tunnel"]
    assert asker.dns()["pool"]["used"] == used  # looking has changed nothing
    told = lab.app.run(["getent", "ahostsv4", "www.example.com"]).stdout.split()[0]
    assert said["verdicts"][0]["address"] == told
    assert asker.dns()["pool"]["used"] == used + 1
    again = asker.route("www.example.com:80")
    assert (again["is_assigned"], again["verdicts"][0]["address"]) == (True, told)
    assert asker.route(told)["name"] == "www.example.com"
    assert rule(asker.prove("tunnel", told)) == (7202, True)
    with tcp.listen(lab.target, TARGET.v4, 7001), tcp.connect(lab.app, told, 7001):
        assert asker.dns()["pool"]["pinned"] == 1
    (only,) = asker.route("v4only.example.com:80")["verdicts"]
    assert ip_address(only["address"]) in POOL4
    (gone,) = asker.route("nothing.example.com:80")["verdicts"]
    assert (gone["verdict"], gone["address"]) == ("nonexistent", "")
    static, _ = asker.route("db.example:80")["verdicts"]
    assert static["why"].endswith(f" as {TARGET.v4}:5432")


def answers_say_which_way_they_took(zone: Program, asker: Asker) -> None:
    for way in ("far", "cached"):
        before = asked(zone, "MX example.com")
        said = asker.query("example.com", "MX")
        assert (said["path"]["way"], said["path"]["asked"]) == (way, "server")
        assert said["answers"] == [said["answers"][0]]
        assert said["answers"][0].endswith(" IN MX 10 www.example.com.")
        assert (asked(zone, "MX example.com") > before) == (way == "far")
    assert 0 < said["path"]["left_s"] <= 300
    assert asker.dns()["cache_hits"] > 0
    said = asker.query("git.example.com")
    assert ip_address(said["answers"][0].split()[-1]) in POOL4
    assert said["path"]["is_virtual"]
    assert said["path"]["way"] == "far"
    assert asked(zone, "A git.example.com")
    assert asker.query("db.example")["path"]["way"] == "static"
    assert asker.query("nothing.example.com", status=3)["rcode"] == "NXDOMAIN"
    assert asker.query("v4only.example.com", "AAAA", status=4)["rcode"] == "NOERROR"
    assert asker.query("www.example.com", "HTTPS", status=4)["path"]["way"] == "virtual"
    assert asker.query("x.onion", status=3)["path"]["way"] == "special"
    assert asked(zone, "A x.onion") == asked(zone, "A db.example") == 0


def while_there_is_no_session(lab: Lab, overlay: Overlay, endpoint: Endpoint, asker: Asker) -> None:
    end(lab, endpoint)
    wait_for(overlay, "reconnecting", 20)
    said = asker.prove("unreachable", TARGET.v4)
    assert "no session" in said["why"]
    assert said["route"]["device"] == "ovpn0"
    (name,) = asker.route("absent.example.com:80")["verdicts"]
    assert name["verdict"] == "unreachable"
    answer = asker.query("absent.example.com", status=1)
    assert (answer["rcode"], answer["path"]["is_away"]) == ("SERVFAIL", True)
    assert answer["why"] == "the far end cannot be asked now"
    assert not asker.dns()["is_connected"]


def test_part_of_the_traffic(lab: Lab, overlay: Overlay, zone: Program, asker: Asker) -> None:
    """A prefix, and the names below a suffix; then a prefix alone."""
    beside = services.names(lab.router, f"{NOT_OURS}. 60 IN A {ROUTER.v4}\n")
    endpoint = overlay.serve()
    prefix = ("--route", "203.0.113.0/24")
    overlay.up(endpoint, *prefix, "--route", "example.com")
    assert rule(asker.prove("tunnel", TARGET.v4)) == (7211, True)
    assert rule(asker.prove("direct", TARGET.v6))[1] is False
    assert asker.route("www.example.com:80")["verdicts"][0]["verdict"] == "tunnel"
    (other,) = asker.route(f"{NOT_OURS}:{CLOSED_PORT}")["verdicts"]
    assert (other["verdict"], other["address"]) == ("direct", ROUTER.v4)
    before = asked(beside, f"A {NOT_OURS}")
    said = asker.query(NOT_OURS)
    assert (said["path"]["way"], said["server"]) == ("forwarded", ROUTER.v4)
    assert said["answers"] == [f"{NOT_OURS}. 60 IN A {ROUTER.v4}"]
    assert (asked(beside, f"A {NOT_OURS}"), asked(zone, f"A {NOT_OURS}")) == (before + 1, 0)
    assert asker.query("www.example.com")["path"]["way"] in ("far", "cached")
    assert asked(beside, "A www.example.com") == 0
    assert asker.dns()["suffixes"] == ["example.com"]
    where_a_resolver_runs_on_this_machine(lab, asker)
    overlay.down()

    overlay.up(endpoint, *prefix)
    said = asker.query(NOT_OURS)
    assert (said["path"]["way"], said["server"]) == ("outside", ROUTER.v4)
    assert asked(beside, f"A {NOT_OURS}") == before + 2
    assert not asker.dns()["is_captured"]
    assert asker.prove("direct", ROUTER.v4, 53)["route"]["device"] == "eth0"


def where_a_resolver_runs_on_this_machine(lab: Lab, asker: Asker) -> None:
    """It would answer by itself: for a name of the tunnel it is passed over."""
    file = lab.app.path("/etc/resolv.conf")
    before = file.read_text()
    file.write_text("nameserver 127.0.0.53\n")
    assert asker.query("v4only.example.com")["server"] == GATEWAY4
    said = asker.query(NOT_OURS, status=1)
    assert (said["server"], said["rcode"], said["why"]) == ("127.0.0.53", "", "Connection refused")
    file.write_text(before)


def test_kill_switch(lab: Lab, overlay: Overlay, zone: Program, asker: Asker) -> None:
    """Whatever routes there are beside it, paused, and when nobody is left who holds it."""
    lab.app.run(["ip", "address", "add", "10.9.9.1/24", "dev", "eth0"])
    lab.router.run(["ip", "address", "add", "10.9.9.2/24", "dev", "to-app"])
    overlay.up(overlay.serve(), "--kill-switch", "--dns-server", TARGET.v4)
    said = asker.query("example.com", "TXT")["path"]
    assert (said["way"], said["asked"]) == ("far", TARGET.v4)
    asker.prove("tunnel", TARGET.v4)
    asker.prove("tunnel", ROUTER.v4, CLOSED_PORT)
    assert "local network" in asker.prove("direct", "10.9.9.2", CLOSED_PORT)["why"]
    beside = ["to", f"{TARGET.v4}/32", "lookup", "main", "priority", "100"]
    lab.app.run(["ip", "rule", "add", *beside])
    said = asker.prove("blocked", TARGET.v4)
    assert rule(said) == (100, False)
    assert said["route"]["device"] == "eth0"
    lab.app.run(["ip", "rule", "delete", *beside])
    overlay.cli("pause", "--for", "5m")
    assert "paused" in asker.prove("direct", TARGET.v4)["why"]
    assert asker.query("www.example.com", status=1)["path"]["way"] == "outside"
    overlay.cli("pause", "--for", "0s")
    asker.prove("tunnel", TARGET.v4)
    os.kill(overlay.status()["pid"], signal.SIGKILL)
    until(lambda: overlay.status()["state"] == "blocked", 20, "nobody who holds the switch")
    for address in TARGET:
        assert "kill switch" in asker.prove("blocked", address)["why"]
    overlay.down()
    asker.prove("direct", TARGET.v4)
    lab.app.run(["ip", "address", "delete", "10.9.9.1/24", "dev", "eth0"])
    lab.router.run(["ip", "address", "delete", "10.9.9.2/24", "dev", "to-app"])


def test_command_with_rules(lab: Lab, overlay: Overlay, zone: Program) -> None:
    """What is said is about the network of the command, and comes to no report."""
    endpoint = overlay.serve()
    runs = Runs(lab)
    rules = ("--deny", f"{TARGET.v4}:81", "--allow", f"{TARGET.v4}", "--allow", "*.example.com")
    report = lab.alice.home / "report.json"
    words = (endpoint.target, *endpoint.pin, "-i", overlay.identity, *rules, "--report", report)
    program = runs.start("sh", "-c", "echo pid $$; exec sleep 9999", options=words)
    inside = lab.app.inside(int(program.says(r"^pid (\d+)$", timeout_s=30)[1]))
    (run,) = runs.list()
    asker = Asker(lab, inside, runs.cli, ("--run", run["id"]))
    assert asker.prove("tunnel", TARGET.v4)["route"]["device"] == "ovpn0"
    assert asker.prove("refused", TARGET.v4, 81)["why"] == f"rule 1 forbids it: {TARGET.v4}:81"
    assert asker.prove("refused", TARGET.v6)["why"] == "no rule allows it"
    (other,) = asker.route(f"{NOT_OURS}:80")["verdicts"]
    assert (other["verdict"], other["why"]) == ("refused", "no rule allows it")
    assert asker.route("www.example.com:80")["verdicts"][1]["verdict"] == "tunnel"
    assert asker.query("example.com", "MX", status=1)["path"]["way"] == "refused"
    denied = asker.query(NOT_OURS, status=1)
    assert (denied["rcode"], denied["path"]["way"]) == ("REFUSED", "refused")
    assert asker.query("www.example.com")["path"]["is_virtual"]
    assert asker.dns()["mode"] == "remote"
    assert "no run 'none'" in runs.cli("route", "get", "a.b", "--run", "none", check=False).stderr
    program.stop(signal.SIGTERM, 20)
    hosts = {one["host"] for one in json.loads(report.read_text())["contacts"]}
    assert hosts == {TARGET.v4, TARGET.v6, NOT_OURS, "www.example.com", "example.com"}
