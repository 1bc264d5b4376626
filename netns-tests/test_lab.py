"""The lab itself: plain kernel paths work as tests expect, and the detectors see what is planted.

app eth0 ── to-app router to-server ── to-router server to-target ── eth0 target
                   └ the outer link is captured here
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab import CommandFailedError, Lab, addresses, services, tcp, until
from lab.addresses import CLOSED_PORT, FILTERED, NO_ROUTE, PROHIBITED, ROUTER, SERVER, TARGET
from lab.capture import Flow, leaks
from lab.pool import Pool
from lab.probes import PROBES
from lab.sweeper import MARK, members

direct = pytest.mark.lab(direct=True)
as_root = pytest.mark.skipif(
    Path("/proc/self/uid_map").read_text().split()[2] == "1", reason="needs other users"
)


# The plain kernel path.


@direct
def test_plain_path_each_fate_of_a_connect(lab: Lab) -> None:
    fates = {
        (TARGET, CLOSED_PORT): ("ECONNREFUSED", "ECONNREFUSED"),
        # ICMP code 13 and ICMPv6 code 1 are not the same error to Linux.
        (PROHIBITED, 80): ("EHOSTUNREACH", "EACCES"),
        (addresses.ABSENT, 80): ("EHOSTUNREACH", "EHOSTUNREACH"),
        (NO_ROUTE, 80): ("ENETUNREACH", "ENETUNREACH"),
    }
    for source in (lab.app, lab.server):
        for (place, port), expected in fates.items():
            found = tuple(tcp.outcome(source, one, port) for one in place)
            assert found == expected, f"{source.name} to {place}"
        assert [tcp.outcome(source, one, 80, 0.3) for one in FILTERED] == ["timeout"] * 2


def test_without_tunnel_the_target_is_out_of_reach_of_the_app_only(lab: Lab) -> None:
    services.web(lab, lab.target)
    for address in TARGET:
        assert tcp.outcome(lab.app, address, 80) == "ENETUNREACH"
        assert tcp.outcome(lab.server, address, 80) == "connected"


@direct
def test_plain_path_dns(lab: Lab) -> None:
    zone = services.names(lab.target)
    dig = ["dig", "+noall", "+answer", "+comments"]
    www = lab.app.run([*dig, "www.example.com", "A", "www.example.com", "AAAA", "+tcp"]).stdout
    assert TARGET.v4 in www
    assert TARGET.v6 in www
    assert "status: NXDOMAIN" in lab.app.run([*dig, "nothing.example.com"]).stdout
    v4only = lab.app.run([*dig, "v4only.example.com", "AAAA"]).stdout
    assert "status: NOERROR" in v4only
    assert "ANSWER: 0" in v4only
    assert TARGET.v4 in lab.app.run([*dig, "alias.example.com"]).stdout
    assert TARGET.v6 in lab.server.run(["getent", "ahosts", "v6only.example.com"]).stdout
    zone.says(r"asked AAAA v6only\.example\.com\.")


@direct
def test_plain_path_web_and_git(lab: Lab) -> None:
    services.names(lab.target)
    web = services.web(lab, lab.target)
    services.repository(lab.target, web.root)
    curl = ["curl", "--silent", "--show-error", "--fail", "--cacert", web.ca]
    for name in ("www", "v4only", "v6only"):
        for scheme in ("http", "https"):
            page = lab.app.run([*curl, f"{scheme}://{name}.example.com/"]).stdout
            assert page == "hello from the lab\n"
    refused = lab.app.run([*curl, f"http://www.example.com:{CLOSED_PORT}/"], check=False)
    assert refused.returncode == 7
    url, copy = "https://git.example.com/project.git", lab.alice.home / "copy"
    lab.app.run(["git", "clone", url, copy], user=lab.alice, env={"GIT_SSL_CAINFO": str(web.ca)})
    assert (copy / "README").is_file()


@direct
@as_root
def test_plain_path_ssh(lab: Lab) -> None:
    services.names(lab.target)
    services.sshd(lab, lab.target)
    services.client_key(lab, lab.alice)
    assert lab.app.run(["ssh", TARGET.v6, "hostname; id -un"], user=lab.alice).stdout == (
        "target\nalice\n"
    )
    path = services.repository(lab.target, lab.tmp)
    copy = lab.alice.home / "copy"
    lab.app.run(["git", "clone", f"ssh://git.example.com{path}", copy], user=lab.alice)
    assert (copy / "README").is_file()


@direct
def test_plain_path_bulk_and_exchange(lab: Lab) -> None:
    services.iperf3(lab.target)
    for is_reverse in (False, True):
        assert services.throughput_mbit_s(lab.app, TARGET.v6, is_reverse=is_reverse) > 100
    server = tcp.serve(lab.target, "exchange", TARGET.v4, 7000, 10_000_000)
    near, _ = tcp.exchange(lab.app, TARGET.v4, 7000, 5_000_000)
    far = json.loads(server.says(r"^\{.*\}$")[0])
    assert near["received"] == 10_000_000
    assert (near["received_sha256"], near["sent_sha256"]) == (
        far["sent_sha256"],
        far["received_sha256"],
    )


@direct
def test_plain_path_closes(lab: Lab) -> None:
    for address in TARGET:
        near, far = tcp.pair(lab.app, lab.target, address)
        with near, far:
            near.shutdown(socket.SHUT_WR)
            assert far.recv(1) == b""
            far.sendall(b"still open")
            assert near.recv(99) == b"still open"
        near, far = tcp.pair(lab.app, lab.target, address)
        with near:
            tcp.reset(far)
            with pytest.raises(ConnectionResetError):
                near.recv(1)


@pytest.mark.lab(loss=0.1)
def test_loss_is_that_of_both_ways(lab: Lab) -> None:
    many = ["ping", "-q", "-i0.002", "-c300", "-W1", SERVER.v6]
    told = re.search(r"([\d.]+)% packet loss", lab.app.run(many, check=False).stdout)
    assert told is not None
    assert 8 < float(told[1]) < 32  # expected: 19


@pytest.mark.lab(mtu=1280, rate="20mbit", rp_filter=1)
def test_other_options_shape_the_way_to_the_server(lab: Lab) -> None:
    assert lab.app.run(["cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter"]).stdout == "1\n"
    big = ["ping", "-4", "-c1", "-W1", "-s1400", "-Mdo", SERVER.v4]
    assert "Frag needed and DF set (mtu = 1280)" in lab.app.run(big, check=False).stdout
    services.iperf3(lab.server)
    assert 5 < services.throughput_mbit_s(lab.app, SERVER.v4) < 25


# The detectors.


def test_leak_detector_sees_every_probe(lab: Lab) -> None:
    lab.app.run(["ping", "-c1", SERVER.v6])  # so that each probe finds its neighbour
    for name, probe in PROBES.items():
        seen = len(lab.outer.packets())
        lab.app.call(probe)
        until(lambda seen=seen: leaks(lab.outer.packets()[seen:], []), 15, f"the leak of {name}")
    assert "ICMPv6 Echo Request" in "".join(map(str, lab.outer.packets()))


def test_leak_detector_allows_only_the_named_flow(lab: Lab) -> None:
    allowed = [Flow("udp", SERVER.v4, 4422), Flow("tcp", SERVER.v6, 22)]

    def send(address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.sendto(b"datagram", (address, port))

    lab.app.call(send, SERVER.v4, 4422)
    assert tcp.outcome(lab.app, SERVER.v6, 22) == "ECONNREFUSED"
    assert len(lab.outer.packets()) >= 3
    assert leaks(lab.outer.packets(), allowed) == []
    for address, port in (
        (SERVER.v4, 4423),
        (addresses.ROUTER_OUTSIDE.v4, 4422),
        (SERVER.v6, 4422),
    ):
        lab.app.call(send, address, port)
    assert len(leaks(lab.outer.packets(), allowed)) == 3


def test_leak_detector_allows_the_refusal_of_what_the_named_flow_sent(lab: Lab) -> None:
    """The app's kernel says no to what a server sends to a socket that has gone."""
    for server, app in zip(SERVER, addresses.APP, strict=True):
        seen = len(lab.outer.packets())

        def send(port: int, server: str = server, app: str = app) -> None:
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.bind((server, port))
                one.connect((app, CLOSED_PORT))
                one.send(b"late")
                with pytest.raises(ConnectionRefusedError):
                    one.recv(1)

        lab.server.call(send, 4422)
        assert leaks(lab.outer.packets()[seen:], [Flow("udp", server, 4422)]) == []
        lab.server.call(send, 4423)
        others = [Flow("udp", server, 4422), Flow("tcp", server, 4423)]
        assert len(leaks(lab.outer.packets()[seen:], others)) == 1


PLANTS = {
    "link": "ip link add name planted type veth peer name other",
    "address": "ip address add 192.0.2.77/24 dev eth0",
    "route": "ip route add 203.0.113.0/24 via 192.0.2.1 table 77",
    "rule": "ip -6 rule add fwmark 77 lookup 77",
    "queue": "tc qdisc add dev eth0 root tbf rate 1mbit burst 16k latency 50ms",
    "nft": "nft add table inet planted",
    "sysctl": "echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter",
    "mount": "mkdir /run/overlay-vpn && mount -t tmpfs none /run/overlay-vpn",
    "file": "echo nameserver 198.18.0.1 >/etc/resolv.conf",
    "process": "setsid sleep 30 &",
    "socket": "setsid iperf3 --server &",
}


def test_leftover_detector_sees_every_plant() -> None:
    with Lab() as lab:
        assert lab.leftovers() == []
        for section, command in PLANTS.items():
            lab.app.run(["sh", "-euc", command])
            sign = f"app: {section} +"
            until(lambda sign=sign: sign in "\n".join(lab.leftovers()), 15, sign)
        with pytest.raises(AssertionError, match="app: rule"):
            lab.assert_clean(0)


STRAYS = ("unshare --net --mount sleep 30", "unshare --net env -i sleep 31", "env -i sleep 32")


def test_leftover_detector_sees_processes_that_hide() -> None:
    with Lab() as lab:
        for stray in STRAYS:
            lab.app.run(["sh", "-c", f"setsid {stray} &"])
        for sign in ("elsewhere: process", "app: process", "sleep 31", "sleep 32"):
            until(lambda sign=sign: sign in "\n".join(lab.leftovers()), 15, sign)
    assert members(lab.token) == []


# A lab that is used again.


def test_lab_that_was_proven_clean_is_lent_again_as_good_as_new() -> None:
    pool = Pool()
    with pool.lend({}) as first:
        user, built = first.alice, sorted(first.tmp.iterdir())
        (user.home / "left").write_text("by the first")
        (first.tmp / "left").mkdir()
        first.app.run(["ping", "-c", "1", ROUTER.v4])
        assert ROUTER.v4 in first.app.run(["ip", "neighbour"]).stdout  # the detector
        assert any("IP / ICMP" in str(packet) for packet in first.outer.packets())
        pool.take_back(first)
    with pool.lend({}) as second:
        assert second is first
        assert sorted(second.tmp.iterdir()) == built
        assert list(user.home.iterdir()) == []
        assert user.home.stat().st_uid == user.uid
        assert ROUTER.v4 not in second.app.run(["ip", "neighbour"]).stdout
        assert not any("IP / ICMP" in str(packet) for packet in second.outer.packets())
        assert second.leftovers() == []
    pool.close()
    assert members(first.token) == []


def test_lab_of_a_test_that_has_left_something_is_not_lent_again() -> None:
    pool = Pool()
    with pool.lend({}) as lab:
        lab.app.run(["ip", "rule", "add", "fwmark", "77", "lookup", "77"])
        with pytest.raises(AssertionError, match="app: rule"):
            pool.take_back(lab, timeout_s=0)
    assert members(lab.token) == []
    with pool.lend({}) as other:
        assert other is not lab


# The end of a lab.


MOUNTS = "grep lab- /proc/self/mountinfo || true"


def test_lab_ends_without_a_trace() -> None:
    def outside() -> tuple[str, ...]:
        looks = (
            "ip link",
            "ip route show table all",
            "ip rule",
            "nft list ruleset 2>&1 || :",
            MOUNTS,
        )
        return tuple(subprocess.check_output(["sh", "-c", look], text=True) for look in looks)

    before, descriptors = outside(), os.listdir("/proc/self/fd")
    with Lab() as lab:
        lab.app.run(["sh", "-c", "setsid sleep 30 &"])
        lab.server.popen(["sh", "-c", "trap '' TERM; ip tuntap add mode tun planted; read x"])
        assert members(lab.token)
    assert members(lab.token) == []
    assert not lab.tmp.exists()
    assert outside() == before
    assert os.listdir("/proc/self/fd") == descriptors


BUILD = """
import sys; sys.path.insert(0, sys.argv[1])
from lab import Lab, services
with Lab(direct=True) as lab:
    services.names(lab.target); web = services.web(lab, lab.target)
    page = lab.app.run(["curl", "-s", "--cacert", web.ca, "https://v6only.example.com/"]).stdout
    print(lab.token, lab.tmp, page, flush=True)
    lab.app.run(["sh", "-c", "setsid sleep 30 &"])
    lab.outer.packets()
    assert any("sleep 30" in line for line in lab.leftovers()), lab.leftovers()
    if sys.argv[2] == "wait":
        lab.server.run(["sleep", "30"], timeout=30)
"""


def test_lab_whose_process_is_killed_leaves_nothing() -> None:
    build = [sys.executable, "-c", BUILD, str(Path(__file__).parent), "wait"]
    with subprocess.Popen(build, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        token, tmp = process.stdout.readline().split()[:2]
        assert members(token)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not members(token), 15, "the end of all processes")
    until(lambda: not Path(tmp).exists(), 15, "the end of the directory")


def test_lab_works_inside_a_user_namespace() -> None:
    build = [sys.executable, "-c", BUILD, str(Path(__file__).parent), "end"]
    run = subprocess.run(["unshare", "-Ur", *build], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    token, tmp, page = run.stdout.rstrip().split(" ", 2)
    assert page == "hello from the lab"
    assert members(token) == []
    assert not Path(tmp).exists()


# Hosts and programs.


def test_hosts_are_separate(lab: Lab) -> None:
    for host in lab.hosts:
        assert host.run(["hostname"]).stdout == f"{host.name}\n"
        assert host.call(socket.gethostbyname, "localhost") == "127.0.0.1"
        host.run(["sh", "-c", "hostname >/run/name; hostname >/etc/resolv.conf"])
    for host in lab.hosts:
        assert host.path("/run/name").read_text() == f"{host.name}\n"
        assert host.path("/etc/resolv.conf").read_text() == f"{host.name}\n"
        host.run(["rm", "/run/name"])
        # The bytes as they were: the clean-up of this test is itself held by the fixture.
        names = TARGET if host is not lab.app else lab.router.address
        host.path("/etc/resolv.conf").write_text(f"nameserver {names.v4}\n")
    listener = tcp.listen(lab.server, addresses.SERVER_INSIDE.v4, 80)
    assert tcp.outcome(lab.target, addresses.SERVER_INSIDE.v4, 80) == "connected"
    listener.close()


@as_root
def test_other_user_has_home_interpreter_and_tun(lab: Lab) -> None:
    source = "import os, dnslib; print(os.getuid(), os.getgroups(), os.getcwd())"
    told = lab.app.python(source, user=lab.alice).stdout
    assert told == f"{lab.alice.uid} [] {lab.alice.home}\n"
    make = "unshare -Urn ip tuntap add mode tun name planted"
    lab.app.run(["sh", "-c", make], user=lab.alice)


def test_program_that_fails_says_what_it_printed(lab: Lab) -> None:
    with pytest.raises(CommandFailedError, match="exit status 3"):
        lab.app.run(["sh", "-c", "echo seen; exit 3"])
    with pytest.raises(CommandFailedError, match=r"no end after 3\.0 s[^$]*seen"):
        lab.app.run(["sh", "-c", "echo seen; exec sleep 30"], timeout=3.0)
    with pytest.raises(CommandFailedError, match="ended without saying 'ready'"):
        lab.app.popen(["echo", "seen"]).says("ready")
    assert MARK in lab.app.run(["env"], stdin="unused").stdout
