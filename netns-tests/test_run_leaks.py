"""`run` leaks nothing: the command has no way out but the tunnel, and none when that has gone.

app ──── router ──── server ──── target      the capture is on the router's link to the app
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import Lab, Program, services, until
from lab.addresses import ROUTER, TARGET
from lab.capture import Flow, leaks
from lab.overlay import PROGRAM, Endpoint, Overlay
from lab.probes import PROBES
from lab.services import Web

PAGE = "hello from the lab\n"
LAB = str(Path(__file__).parent)

# Runs every probe there is, and then says so; what the kernel refuses outright has not leaked.
ALL_PROBES = f"""
import sys
sys.path.insert(0, {LAB!r})
from lab.probes import PROBES
for name, probe in PROBES.items():
    try:
        probe()
        print("sent", name)
    except PermissionError:
        print("refused", name)
"""

# Asks every name service on this machine for a way out, over its socket.
ASK_SERVICES = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        try:
            one.connect(path)
            one.sendall(b"who is www.example.com?")
            print(one.recv(64).decode(), path)
        except OSError as error:
            print("nobody", path)
"""
SERVICES = """
import os, socket, sys, threading
def serve(listener):
    while True:
        one, _ = listener.accept()
        with one:
            print("asked", one.recv(64), flush=True)
            one.sendall(b"answered")
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    threading.Thread(target=serve, args=(listener,)).start()
print("ready", flush=True)
"""
BUS = "/run/dbus/system_bus_socket"
NAME_SERVICES = (
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/avahi-daemon/socket",
    "/run/overlay-vpn/shim.sock",  # no name service, but it gives away sockets of the host
)
DIRECTORIES = ("/run/nscd", "/run/systemd", "/run/avahi-daemon", "/run/overlay-vpn")

# Tries to connect again and again, and says when that begins and ceases to work.
ALWAYS_TRYING = """
import socket, sys, time
known, rounds = None, 0
while True:
    works = 0
    for host in sys.argv[1:]:
        try:
            socket.create_connection((host, 80), 5).close()
            works += 1
        except OSError:
            pass
        udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.sendto(b"udp", (host, 4000))
        except OSError:
            pass
        udp.close()
    if works != known:
        known, rounds = works, 0
        print("works", works, flush=True)
    rounds += 1
    if works == 0 and rounds == 5:
        print("in vain", flush=True)
    time.sleep(0.01)
"""


class Tunnel(NamedTuple):
    """How alice runs a command through our server, and what may be on the wire for it."""

    lab: Lab
    endpoint: Endpoint
    words: tuple[str, ...]
    runtime: Path

    @property
    def env(self) -> dict[str, str]:
        return {"XDG_RUNTIME_DIR": str(self.runtime)}

    def start(self, *command: str | Path, options: Sequence[str] = ()) -> Program:
        argv = [*self.words, *options, "--", *command]
        return self.lab.app.popen(argv, user=self.lab.alice, env=self.env)

    def run(self, *command: str | Path, options: Sequence[str] = ()) -> str:
        argv = [*self.words, *options, "--", *command]
        return self.lab.app.run(argv, user=self.lab.alice, env=self.env).stdout

    def leaks(self) -> list[str]:
        """Return what was seen besides the tunnel."""
        return [*map(str, leaks(self.lab.outer.packets(), {self.endpoint.flow}))]


@pytest.fixture
def tunnel(lab: Lab, overlay: Overlay) -> Tunnel:
    endpoint = overlay.serve()
    words = (PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", str(overlay.identity))
    runtime = lab.tmp / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, lab.alice.uid, lab.alice.gid)
    return Tunnel(lab, endpoint, words, runtime)


@pytest.fixture
def web(lab: Lab) -> Web:
    services.names(lab.target)
    return services.web(lab, lab.target)


class Family:
    """The processes of a run. Each mount namespace that came from the app's shows the lab."""

    def __init__(self, lab: Lab, parent: int) -> None:
        self.parent, self.all = parent, dict[int, str]()
        parents = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                if f"{lab.tmp}/app/" in (entry / "mountinfo").read_text() and pid != lab.app.pid:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    if stat[0] != "Z":
                        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        self.all[pid], parents[pid] = words, int(stat[1])
        of_shim = [pid for pid, words in self.all.items() if "shim.namespace" in words]
        (self.shim,) = (pid for pid in of_shim if parents[pid] not in of_shim)
        (self.supervisor,) = (pid for pid in of_shim if parents[pid] == self.shim)
        (self.gate,) = (pid for pid in of_shim if parents[pid] == self.supervisor)
        self.client = parents[self.shim]
        assert parents[self.client] == parent

    def others(self) -> set[int]:
        """Return those that are neither ours nor the command's first process."""
        return set(self.all) - {self.parent, self.client, self.shim, self.supervisor, self.gate}


def alive(lab: Lab) -> dict[int, str]:
    """Return what is left of a run, in whatever namespace."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{lab.tmp}/app/" in (entry / "mountinfo").read_text():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    known = {lab.app.pid, *(program.pid for program in lab.app.programs if program.is_alive)}
    return {pid: words for pid, words in found.items() if pid not in known}


def test_probes_are_seen_outside_and_none_from_a_command(
    lab: Lab, tunnel: Tunnel, web: Web
) -> None:
    for name, probe in PROBES.items():
        before = len(tunnel.leaks())
        lab.app.call(probe)
        until(lambda before=before: len(tunnel.leaks()) > before, 15, f"the probe {name}")
    seen = len(tunnel.leaks())
    said = tunnel.run(sys.executable, "-c", ALL_PROBES).splitlines()
    assert len(said) == len(PROBES)
    assert [line for line in said if line.startswith("refused")] == [
        f"refused {name}" for name in PROBES if name in {*RAW, "ethernet"}
    ]
    assert tunnel.run("curl", "-sS", "http://www.example.com/") == PAGE
    assert tunnel.leaks()[seen:] == []


RAW = ("icmp4 echo", "icmp6 echo", "unknown protocol")


def test_raw_sockets_of_a_namespace_of_the_command_itself(lab: Lab, tunnel: Tunnel) -> None:
    """A command may make itself root again in namespaces of its own: they lead nowhere."""
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", ALL_PROBES]
    said = tunnel.run(*argv).splitlines()
    assert sum(line.startswith("refused") for line in said) == len(RAW) + 1
    argv = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", ALL_PROBES]
    assert all(line.startswith("sent") for line in tunnel.run(*argv).splitlines())
    assert tunnel.leaks() == []


def test_command_cannot_leave_its_namespaces(lab: Lab, tunnel: Tunnel) -> None:
    """Nor undo what was mounted for it."""
    outside = lab.app.popen(["sleep", "100"], user=lab.alice)
    script = f"""
        nsenter --net=/proc/{outside.pid}/ns/net true 2>&1
        nsenter --target {outside.pid} --user --net true 2>&1
        unshare -Ur nsenter --net=/proc/{outside.pid}/ns/net true 2>&1
        unshare -Urm umount /etc 2>&1
        umount /etc 2>&1
        ip link del ovpn0 2>&1
        ip route add 192.0.2.0/24 dev lo 2>&1
        cat /etc/resolv.conf
    """
    said = tunnel.run("sh", "-c", script).splitlines()
    assert said.pop() == "nameserver 198.18.0.1"
    assert len(said) == 7, said
    assert tunnel.leaks() == []


@pytest.fixture
def name_services(lab: Lab) -> Program:
    """Stand-ins for nscd, systemd-resolved, avahi and the system bus, on the app."""
    program = lab.app.popen([sys.executable, "-c", SERVICES, *NAME_SERVICES, BUS])
    program.says("^ready$")
    return program


def test_sockets_of_name_services_lead_nowhere(
    lab: Lab, tunnel: Tunnel, name_services: Program
) -> None:
    ask = [sys.executable, "-c", ASK_SERVICES, *NAME_SERVICES, "/var/run/nscd/socket", BUS]
    outside = lab.app.run(ask, user=lab.alice).stdout.splitlines()
    assert [line.split()[0] for line in outside] == ["answered"] * 6
    asked = name_services.stdout.count("who is")
    inside = tunnel.run(*ask).splitlines()
    assert [line.split()[0] for line in inside] == ["nobody"] * 5 + ["answered"]
    inside = tunnel.run(*ask, options=["--mask-bus"]).splitlines()
    assert [line.split()[0] for line in inside] == ["nobody"] * 6
    assert name_services.stdout.count("who is") == asked + 1
    lab.app.run(["sh", "-c", f"rm -r {' '.join(DIRECTORIES)} /run/dbus"])


def test_name_services_that_start_or_restart_later_lead_nowhere(lab: Lab, tunnel: Tunnel) -> None:
    """Their directories are made and removed by them: avahi starts later, the others restart."""
    serve, remove = [sys.executable, "-c", SERVICES], ["rm", "-r", "/run/nscd", "/run/systemd"]
    ask = [sys.executable, "-c", ASK_SERVICES, *NAME_SERVICES]
    first = lab.app.popen([*serve, *NAME_SERVICES[:2]])
    first.says("^ready$")
    go = lab.tmp / "go"
    wait = f'until [ -e {go} ]; do sleep 0.05; done; exec "$@"'
    program = tunnel.start("sh", "-c", f"echo in; {wait}", "sh", *ask)
    program.says("^in$")
    first.stop(signal.SIGKILL)
    lab.app.run(remove)
    lab.app.popen([*serve, *NAME_SERVICES]).says("^ready$")
    outside = lab.app.run(ask, user=lab.alice).stdout.splitlines()
    assert [line.split()[0] for line in outside] == ["answered"] * 4
    go.touch()
    assert program.wait() == 0
    assert [line.split()[0] for line in program.stdout.splitlines()[1:]] == ["nobody"] * 4
    lab.app.run(["rm", "-r", *DIRECTORIES])


def test_resolv_conf_that_is_replaced_is_not_seen(lab: Lab, tunnel: Tunnel, web: Web) -> None:
    go = lab.tmp / "go"
    script = f"""
        cat /etc/resolv.conf; echo in
        until [ -e {go} ]; do sleep 0.05; done
        cat /etc/resolv.conf /etc/nsswitch.conf; curl -sS http://www.example.com/
    """
    program = tunnel.start("sh", "-c", script)
    program.says("^in$")
    etc = lab.app.path("/etc")
    kept = {name: (etc / name).read_text() for name in ("resolv.conf", "nsswitch.conf")}
    lines = {"resolv.conf": f"nameserver {ROUTER.v4}\n", "nsswitch.conf": "hosts: resolve\n"}
    for texts in (lines, kept):
        for name, text in texts.items():
            (etc / f"{name}.new").write_text(text)
            (etc / f"{name}.new").rename(etc / name)
        if texts is lines:
            assert lab.app.run(["cat", "/etc/resolv.conf"]).stdout == lines["resolv.conf"]
            go.touch()
            assert program.wait() == 0
    before, _, after = program.stdout.partition("in\n")
    assert before == "nameserver 198.18.0.1\n"
    assert after.startswith(before)
    assert "hosts: files dns\n" in after
    assert after.endswith(PAGE)
    assert tunnel.leaks() == []


def test_router_advertisement_opens_no_way_for_ipv6(lab: Lab, tunnel: Tunnel, web: Web) -> None:
    go = lab.tmp / "go"
    script = f"""
        echo in; until [ -e {go} ]; do sleep 0.05; done
        curl -sS http://[{TARGET.v6}]/ && curl -sS http://v6only.example.com/
        ip -brief -6 address show scope global
    """
    lab.app.run(["sh", "-c", "echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra"])
    program = tunnel.start("sh", "-c", script)
    program.says("^in$")
    advertise(lab)
    addresses = ["ip", "-6", "address", "show", "dev", "eth0"]
    until(lambda: "2001:db8:77:" in lab.app.run(addresses).stdout, 15, "an advertised address")
    go.touch()
    assert program.wait() == 0
    assert program.stdout.startswith(f"in\n{PAGE}{PAGE}")
    assert "2001:db8:" not in program.stdout
    assert tunnel.leaks() == []
    undo = """
        echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra
        ip -6 route flush proto ra
        ip -6 route flush 2001:db8:77::/64
        for one in $(ip -6 -o address show dev eth0 | grep -o '2001:db8:77:[^ ]*'); do
            ip address del $one dev eth0
        done
    """
    lab.app.run(["sh", "-euc", undo])


def advertise(lab: Lab) -> None:
    """Send one router advertisement from the router to the app (RFC 4861 section 4.2)."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:77::")
    option = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 7200, 7200, 0, prefix)
    with lab.router.call(
        socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6
    ) as one:
        index = lab.router.call(socket.if_nametoindex, "to-app")
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        one.sendto(head + option, ("ff02::1", 0, 0, index))


def test_orphans_of_the_command_die_with_it(lab: Lab, tunnel: Tunnel) -> None:
    script = """
        setsid sh -c 'setsid sleep 1000 & setsid sleep 1001 &' </dev/null >/dev/null 2>&1
        nohup env -i sleep 1002 >/dev/null 2>&1 &
        echo in; read line
    """
    go = lab.tmp / "go"
    os.mkfifo(go)
    go.chmod(0o666)
    program = tunnel.start("sh", "-c", f"exec <>{go}; {script}")
    program.says("^in$")
    sleeping = ("sleep 1000 ", "sleep 1001 ", "sleep 1002 ")
    until(lambda: set(sleeping) <= set(alive(lab).values()), 15, "the daemons")
    go.write_text("end\n")
    assert program.wait() == 0
    until(lambda: not alive(lab), 15, "the end of everything")
    assert list(tunnel.runtime.glob("*/*")) == []


def test_killed_parent_takes_everything_with_it(lab: Lab, tunnel: Tunnel) -> None:
    script = "setsid sleep 1000 & echo in; sleep 1001"
    program = tunnel.start("sh", "-c", script)
    program.says("^in$")
    until(lambda: len(Family(lab, program.pid).others()) == 3, 15, "all three")
    program.process.kill()
    program.wait()
    until(lambda: not alive(lab), 15, "the end of everything")
    assert list(tunnel.runtime.glob("*/*")) == []


def test_killed_part_leaves_the_command_without_network(lab: Lab, tunnel: Tunnel, web: Web) -> None:
    for victim in ("client", "shim", "supervisor"):
        program = tunnel.start(sys.executable, "-c", ALWAYS_TRYING, *TARGET)
        program.says("^works 2$")
        os.kill(getattr(Family(lab, program.pid), victim), signal.SIGKILL)
        program.says("^works 0$")
        program.says("^in vain$")
        assert program.is_alive
        assert program.stop(timeout_s=20) == 128 + signal.SIGTERM
        until(lambda: not alive(lab), 10, f"the end of everything without {victim}")
        assert program.stdout.partition("works 0\n")[2] == "in vain\n"
    assert tunnel.leaks() == []


def test_server_that_goes_leaves_the_command_without_network(
    lab: Lab, tunnel: Tunnel, web: Web
) -> None:
    program = tunnel.start(sys.executable, "-c", ALWAYS_TRYING, *TARGET)
    program.says("^works 2$")
    tunnel.endpoint.program.stop()
    program.says("^works 0$")
    program.says("^in vain$")
    program.says("the session ended", timeout_s=20)
    assert tunnel.leaks() == []
    program.stop()


def test_detector_sees_what_always_trying_sends_outside(lab: Lab) -> None:
    program = lab.app.popen([sys.executable, "-c", ALWAYS_TRYING, *TARGET], user=lab.alice)
    wanted = {Flow("tcp", one, 80) for one in TARGET} | {Flow("udp", one, 4000) for one in TARGET}

    def all_seen() -> bool:
        packets = lab.outer.packets()
        count = len(leaks(packets, set()))
        return all(len(leaks(packets, {one})) < count for one in wanted)

    until(all_seen, 15, "a packet of each kind")
    program.stop()
