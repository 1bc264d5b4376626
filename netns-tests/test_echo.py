"""ping and traceroute: what answers is the far end, and what is not there does not answer.

app ──── router ──── server ──── target ──── beyond      the server pings, by ping sockets

A server whose kernel forbids ping sockets, as a stock one does, and a plain sshd say "prohibited".
Nobody answers in the name of somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Host, Lab, rules, until
from lab.addresses import ABSENT, FILTERED, NO_ROUTE, PROHIBITED, TARGET, Dual
from lab.ways import Way
from shim.protocol import GATEWAY4, GATEWAY6

OURS = pytest.mark.ways("up ours", "run ours")
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
BEYOND = Dual("203.0.113.130", "2001:db8:5::2")
"""One hop behind the target."""
EVERY = 4
DROP = [f"{of} type echo-request numgen inc mod {EVERY} 0 drop" for of in ("icmp", "icmpv6")]
REFUSED = "Packet filtered|Administratively prohibited"


@contextmanager
def may_ping(lab: Lab, groups: str) -> Iterator[None]:
    """Let the processes of these groups at the server ping (icmp(7), ping_group_range)."""
    path = "/proc/sys/net/ipv4/ping_group_range"
    before = lab.server.run(["cat", path]).stdout
    write = ["sh", "-c", f'echo "$0" >{path}']
    lab.server.run([*write, groups])
    try:
        yield
    finally:
        lab.server.run([*write, before])


@pytest.fixture(scope="module")
def pinging(way: Way) -> Iterator[None]:
    gid = way.lab.service.gid
    with may_ping(way.lab, f"{gid} {gid}"):
        yield


def ping(host: Host, to: str, *words: str) -> str:
    """Return what the program says, after it has waited for the last answer."""
    return host.run(["ping", "-n", "-W", "5", *words, to], check=False, timeout=60).stdout


def lost_percent(said: str) -> float:
    return float(re.findall(r"([0-9.]+)% packet loss", said)[0])


@pytest.mark.fidelity("ICMP echo, truthful")
@OURS
@FAMILIES
@pytest.mark.parametrize("size", [0, 56, 1400, 9000, 65507])
def test_ping_is_answered_with_its_own_payload(
    way: Way, pinging: None, family: int, size: int
) -> None:
    """The program itself compares each octet, and the sequence."""
    words = ("-c", "3", "-i", "0.2", "-s", str(size), "-p", "a5")

    def is_answered() -> bool:
        said = ping(way.app, TARGET[family], *words)
        assert "wrong data" not in said
        assert "DUP" not in said
        return "3 received" in said and f"{size + 8} bytes from {TARGET[family]}" in said

    until(is_answered, 30, "three answers to three requests")  # what is lost on the way is lost


@OURS
@FAMILIES
def test_ping_by_name_is_of_the_address_that_it_has_here(
    way: Way, pinging: None, family: int
) -> None:
    said = ping(way.app, "www.example.com", "-c", "2", "-i", "0.2", ("-4", "-6")[family])
    assert "2 received" in said
    assert not any(address in said for address in TARGET)


@OURS
@FAMILIES
def test_losses_are_those_of_the_far_side(way: Way, pinging: None, family: int) -> None:
    words = ("-c", str(5 * EVERY), "-i", "0.05")
    with rules.arriving(way.lab.target, *DROP):
        there, here = (
            lost_percent(ping(host, TARGET[family], *words)) for host in (way.lab.server, way.app)
        )
    assert there == 100 / EVERY
    assert here == pytest.approx(there, abs=10)


FATES = {
    "filtered": (FILTERED, "^$"),
    "absent": (ABSENT, "Host Unreachable|Address unreachable"),
    "no route": (NO_ROUTE, "Net Unreachable|No route"),
    "prohibited": (PROHIBITED, REFUSED),
}


@OURS
@FAMILIES
@pytest.mark.parametrize(("place", "expected"), FATES.values(), ids=FATES)
def test_what_does_not_answer_there_does_not_answer_here(
    way: Way, pinging: None, family: int, place: Dual, expected: str
) -> None:
    said = ping(way.app, place[family], "-c", "1")
    assert "0 received" in said
    (told,) = re.findall(r"^From .*? icmp_seq=\d+ (.*)$", said, re.MULTILINE) or [""]
    assert re.search(expected, told), said


@pytest.mark.fidelity("ICMP echo, truthful", over="sshd", cell="◐ refused at once, never faked")
@FAMILIES
def test_server_that_may_not_ping_says_prohibited(way: Way, family: int) -> None:
    with may_ping(way.lab, "1 0"):  # what a kernel begins with
        said = ping(way.app, TARGET[family], "-c", "2", "-i", "0.2")
    assert "0 received" in said
    assert len(re.findall(REFUSED, said)) == 2


@pytest.fixture(scope="module")
def beyond(way: Way) -> Iterator[Host]:
    """A host behind the target, which routes to it."""
    lab, target = way.lab, way.lab.target
    holder = target.popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 9999"])
    holder.says("^ready$")
    forwarding = "for f in ipv4 ipv6; do echo {} >/proc/sys/net/$f/conf/all/forwarding; done"
    target.run(["sh", "-c", forwarding.format(1)])
    target.run(
        ["ip", "link", "add", "behind", "type", "veth", "peer", "eth0", "netns", str(holder.pid)]
    )
    inside = ["nsenter", "--target", str(holder.pid), "--net", "ip"]
    for words, own, their, via in (
        ("-4", "203.0.113.129/30", f"{BEYOND.v4}/30", "203.0.113.129"),
        ("-6", "2001:db8:5::1/64", f"{BEYOND.v6}/64", "2001:db8:5::1"),
    ):
        target.run(["ip", "address", "add", own, "dev", "behind", *(["nodad"] * (words == "-6"))])
        target.run(
            [*inside, "address", "add", their, "dev", "eth0", *(["nodad"] * (words == "-6"))]
        )
        if words == "-4":
            target.run(["ip", "link", "set", "behind", "up"])
            target.run([*inside, "link", "set", "eth0", "up"])
        target.run([*inside, words, "route", "add", "default", "via", via])
    for there, via in zip(BEYOND, TARGET, strict=True):
        lab.server.run(["ip", "route", "add", there, "via", via])
    yield target
    for there in BEYOND:
        lab.server.run(["ip", "route", "del", there])
    target.run(["ip", "link", "del", "behind"])
    target.run(["sh", "-c", forwarding.format(0)])
    holder.stop()


def hops(host: Host, to: str, *words: str) -> list[str]:
    """Who answers at each distance, `*` for nobody."""
    argv = ["traceroute", "-n", "-q", "1", "-w", "8", "-m", "4", "-N", "1", *words, to]
    lines = host.run(argv, timeout=120).stdout.splitlines()[1:]
    return [line.split()[1] for line in lines]


@OURS
@FAMILIES
@pytest.mark.parametrize("method", ["-U -p 33440", "-I"])
def test_route_is_the_gateway_and_then_who_is_really_there(
    way: Way, pinging: None, beyond: Host, family: int, method: str
) -> None:
    gateway, words = (GATEWAY4, GATEWAY6)[family], method.split()
    # A router answers from an address of its choice.
    there = hops(way.lab.server, BEYOND[family], *words)
    assert there[0] in {place[family] for place in (TARGET, FILTERED, PROHIBITED)}
    assert there[1:] == [BEYOND[family]]
    assert hops(way.app, BEYOND[family], *words) == [gateway, *there]
    assert hops(way.app, TARGET[family], *words) == [gateway, TARGET[family]]
    assert {*hops(way.app, FILTERED[family], *words)[1:]} == {"*"}


@FAMILIES
def test_route_of_tcp_ends_where_a_connection_does(way: Way, family: int) -> None:
    """A SYN is answered when the far end has connected, or not at all: there is nobody between."""
    gateway = (GATEWAY4, GATEWAY6)[family]
    assert hops(way.app, TARGET[family], "-T", "-p", "9") == [gateway, TARGET[family]]
    assert {*hops(way.app, FILTERED[family], "-T", "-m", "3")[1:]} == {"*"}
