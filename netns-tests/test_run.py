"""`run`: real programs in a network of their own, without root; what they see, and what is said.

app ──── router ──── server ──── target      with `direct` the embedded server reaches the target
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lab import Lab, Program, kill, services, tcp, until
from lab.addresses import CLOSED_PORT, FILTERED, TARGET
from lab.capture import leaks
from lab.overlay import PROGRAM, Overlay
from lab.services import Web

DIRECT = pytest.mark.lab(direct=True)
PAGE = "hello from the lab\n"
EMBEDDED = ("--embedded",)

RAW_RESOLVER = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const unsigned char question[] =
    "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    "\x06v4only\x07" "example\x03" "com\x00\x00\x01\x00\x01";

int main(void) {
    char text[4096], answer[512], *start, *end;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    long file = syscall(SYS_openat, AT_FDCWD, "/etc/resolv.conf", O_RDONLY);
    long size = syscall(SYS_read, file, text, sizeof text - 1);
    if (size < 0) return 2;
    text[size] = 0;
    if (!(start = strstr(text, "nameserver "))) return 3;
    start += 11;
    if ((end = strpbrk(start, " \n"))) *end = 0;
    inet_pton(AF_INET, start, &to.sin_addr);
    long udp = syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0);
    syscall(SYS_sendto, udp, question, sizeof question - 1, 0, &to, sizeof to);
    size = syscall(SYS_recvfrom, udp, answer, sizeof answer, 0, 0, 0);
    if (size < (long)sizeof question || answer[7] != 1) return 4;
    memcpy(&to.sin_addr, answer + size - 4, 4);
    to.sin_port = htons(80);
    long tcp = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    if (syscall(SYS_connect, tcp, &to, sizeof to) != 0) return 5;
    syscall(SYS_write, tcp, "GET / HTTP/1.0\r\n\r\n", 18);
    while ((size = syscall(SYS_read, tcp, text, sizeof text)) > 0)
        syscall(SYS_write, 1, text, size);
    return 0;
}
"""

NODE = """
require("dns").resolve4("v4only.example.com", (error) => {
    if (error) throw error;
    fetch("http://www.example.com/").then(r => r.text()).then(t => process.stdout.write(t));
});
"""
JAVA = """
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        new java.net.URL("http://www.example.com/").openStream().transferTo(System.out);
    }
}
"""

SEEN = """
import json, os, resource, sys
status = open("/proc/self/status").read().splitlines()
print(json.dumps({
    "ids": [os.getresuid(), os.getresgid()],
    "directory": os.getcwd(),
    "home": [os.path.expanduser("~"), os.stat(os.path.expanduser("~")).st_uid],
    "umask": os.umask(0),
    "nice": os.nice(0),
    "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
    "signals": [s for s in status if s.startswith(("SigBlk", "SigIgn", "SigCgt"))],
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "environment": {k: v for k, v in os.environ.items() if not k.startswith("OVERLAY_VPN_")},
    "arguments": sys.argv[1:],
    "ours": {k: v for k, v in os.environ.items() if k.startswith("OVERLAY_VPN_")},
    "rights": [s.split()[1] for s in status if s.startswith(("CapPrm", "CapEff", "CapBnd"))],
}))
"""


class Runs:
    """The runs of alice on the app, whose registry is `runtime`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.runtime = lab.tmp / "runtime"
        self.runtime.mkdir(mode=0o700)
        os.chown(self.runtime, lab.alice.uid, lab.alice.gid)
        self.env = {"XDG_RUNTIME_DIR": str(self.runtime)}

    def __call__(
        self,
        *command: str | Path,
        options: Sequence[str | Path] = EMBEDDED,
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> CompletedProcess[str]:
        """Run a command to its end."""
        argv = [PROGRAM, "run", *options, "--", *command]
        env = self.env | (env or {})
        return self.lab.app.run(argv, user=self.lab.alice, env=env, check=check)

    def start(self, *command: str | Path, options: Sequence[str | Path] = EMBEDDED) -> Program:
        """Start a command."""
        argv = [PROGRAM, "run", *options, "--", *command]
        return self.lab.app.popen(argv, user=self.lab.alice, env=self.env)

    def cli(self, *words: str, check: bool = True) -> CompletedProcess[str]:
        """Run another verb as alice."""
        argv = [PROGRAM, *words]
        return self.lab.app.run(argv, user=self.lab.alice, env=self.env, check=check)

    def list(self) -> list[dict[str, Any]]:
        """Return what `list --json` says."""
        found: list[dict[str, Any]] = json.loads(self.cli("list", "--json").stdout)["runs"]
        return found

    def entries(self) -> list[str]:
        """Return the files of the registry."""
        return sorted(path.name for path in self.runtime.glob("*/*"))


@pytest.fixture
def runs(lab: Lab) -> Runs:
    return Runs(lab)


@pytest.fixture
def web(lab: Lab) -> Web:
    services.names(lab.target)
    return services.web(lab, lab.target)


def line_of(done: CompletedProcess[str], status: int) -> str:
    """The one line that we say about a command."""
    assert done.returncode == status, done.stderr
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("overlay-vpn: ")]
    assert "Traceback" not in done.stderr
    return line


WRITES_AND_ENDS = """
import os, socket, sys
one = socket.create_connection((sys.argv[1], int(sys.argv[2])))
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
one.sendall(bytes(int(sys.argv[3])))
os._exit(0)
"""


@pytest.mark.parametrize(("size", "pause_s"), [(3 << 20, 0.0), (8 << 20, 0.04)])
def test_what_was_written_before_the_end_arrives(
    lab: Lab, overlay: Overlay, runs: Runs, size: int, pause_s: float
) -> None:
    """Also when whoever reads it takes some seconds."""
    endpoint = overlay.serve()
    options = [endpoint.target, *endpoint.pin, "-i", overlay.identity]
    with tcp.listen(lab.target, TARGET.v4) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        words = (WRITES_AND_ENDS, TARGET.v4, str(listener.getsockname()[1]), str(size))
        program = runs.start(sys.executable, "-c", *words, options=options)
        stream, _ = listener.accept()
        with stream:
            stream.settimeout(20)
            received = 0
            while data := stream.recv(1 << 16):
                received += len(data)
                time.sleep(pause_s)
        assert received == size
        assert program.wait() == 0


def wheel(folder: Path) -> None:
    """Write a simple index (PEP 503) with one wheel (PEP 427)."""
    place = folder / "simple" / "labsample"
    place.mkdir(parents=True)
    about = "labsample-1.0.dist-info"
    name = "labsample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(place / name, "w") as archive:
        archive.writestr("labsample.py", "WORKS = True\n")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: labsample\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    (place / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


@DIRECT
def test_run_curl_by_name_and_address_of_both_families(lab: Lab, runs: Runs, web: Web) -> None:
    names = [f"{n}.example.com" for n in ("www", "v4only", "v6only", "alias")]
    hosts = (*names, TARGET.v4, f"[{TARGET.v6}]")
    assert runs("curl", "-sS", f"http://{names[0]}/").stdout == PAGE
    script = 'for host; do curl -sS --fail "https://$host/" || exit; done'
    said = runs("sh", "-c", script, "sh", *hosts, env={"CURL_CA_BUNDLE": str(web.ca)}).stdout
    assert said == PAGE * len(hosts)
    assert runs.entries() == []


@DIRECT
def test_run_git_and_ssh(lab: Lab, runs: Runs, web: Web) -> None:
    repository = services.repository(lab.target, web.root)
    services.sshd(lab, lab.target)
    for number, url in enumerate(
        ("https://git.example.com/project.git", f"ssh://git.example.com{repository}")
    ):
        copy = lab.alice.home / f"copy-{number}"
        runs("git", "clone", url, copy, env={"GIT_SSL_CAINFO": str(web.ca)})
        assert (copy / "README").is_file()
        assert (copy / "README").stat().st_uid == lab.alice.uid
    assert runs("ssh", "-o", "BatchMode=yes", "git.example.com", "hostname").stdout == "target\n"


@DIRECT
def test_run_ssh_reads_the_parts_of_its_system_configuration(
    lab: Lab, runs: Runs, web: Web
) -> None:
    services.sshd(lab, lab.target)
    part = lab.app.path("/etc/ssh/ssh_config.d/lab.conf")
    lab.app.run(["mount", "-t", "tmpfs", "none", "/etc/ssh/ssh_config.d"])
    part.write_text("Host shortcut\n    HostName git.example.com\n")
    assert runs("ssh", "-o", "BatchMode=yes", "shortcut", "hostname").stdout == "target\n"
    lab.app.run(["umount", "/etc/ssh/ssh_config.d"])


@DIRECT
def test_run_pip_download(lab: Lab, runs: Runs, web: Web) -> None:
    wheel(web.root)
    into = lab.alice.home / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    pip += ["download", "--no-deps", "--index-url", "http://www.example.com/simple/"]
    pip += ["--trusted-host", "www.example.com", "--dest", str(into)]
    runs(*pip, "labsample")
    assert [path.name for path in into.iterdir()] == ["labsample-1.0-py3-none-any.whl"]


@DIRECT
def test_run_dig_answers_of_the_gate_are_honest(lab: Lab, runs: Runs, web: Web) -> None:
    script = """
        dig +noall +comments nothing.example.com | grep -o 'status: [A-Z]*'
        dig +noall +comments v4only.example.com AAAA | grep -o 'ANSWER: [0-9]*'
        dig +short +tcp www.example.com | grep -o '^198.1[89]'
    """
    said = runs("sh", "-c", script).stdout.splitlines()
    assert said[:2] == ["status: NXDOMAIN", "ANSWER: 0"]
    assert said[2].startswith("198.1")


@DIRECT
def test_run_program_without_libc_resolver(lab: Lab, runs: Runs, web: Web) -> None:
    program = lab.tmp / "raw"
    source = program.with_suffix(".c")
    source.write_text(RAW_RESOLVER)
    lab.app.run(["gcc", "-static", "-O1", "-o", program, source])
    assert lab.app.run([program]).stdout.endswith(PAGE)
    assert runs(program).stdout.endswith(PAGE)


@DIRECT
def test_run_node_or_java(lab: Lab, runs: Runs, web: Web) -> None:
    """Whichever the machine has; both bring a resolver or a network stack of their own."""
    source = lab.tmp / "Fetch.java"
    source.write_text(JAVA)
    programs = {"node": ["node", "-e", NODE], "java": ["java", "-Xshare:auto", str(source)]}
    found = [argv for name, argv in programs.items() if shutil.which(name)]
    assert found, "needs node or java"
    for argv in found:
        assert runs(*argv).stdout == PAGE


def test_run_through_a_server_and_up_unshare_is_the_same(
    lab: Lab, overlay: Overlay, runs: Runs, web: Web
) -> None:
    endpoint = overlay.serve()
    options = (endpoint.target, *endpoint.pin, "-i", str(overlay.identity))
    curl = ("curl", "--silent", "--show-error", "--fail", "http://www.example.com/")
    assert runs(*curl, options=options).stdout == PAGE
    argv = [PROGRAM, "up", "--unshare", *options, "--", *curl]
    assert lab.app.run(argv, user=lab.alice, env=runs.env).stdout == PAGE
    assert leaks(lab.outer.packets(), {endpoint.flow}) == []
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "ENETUNREACH"


SENDS = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(5)
one.connect((sys.argv[1], int(sys.argv[2])))
one.send(b"x")
try:
    one.recv(1)
except ConnectionRefusedError:
    print("refused")
"""


def test_strict_tells_what_is_denied_from_what_a_plain_sshd_lacks(
    lab: Lab, overlay: Overlay, runs: Runs
) -> None:
    options = [overlay.serve_ssh().target, "-i", str(overlay.identity), "--strict"]
    argv = [sys.executable, "-c", SENDS, TARGET.v4, "9"]
    for rules, status in (((), 0), (("--deny", f"{TARGET.v4}:9"), 125)):
        done = runs(*argv, options=[*options, *rules], check=False)
        assert (done.stdout, done.returncode) == ("refused\n", status)


@DIRECT
def test_command_sees_what_it_would_see_without_us(lab: Lab, runs: Runs) -> None:
    words = [sys.executable, "-c", SEEN, "an argument", "--", "", "--allow", "é"]
    folder = lab.alice.home / "here"
    folder.mkdir()
    os.chown(folder, lab.alice.uid, lab.alice.gid)
    shell = ["sh", "-c", 'cd here && umask 027 && exec "$@"', "sh"]
    env = {**runs.env, "OTHER": "a=b\nc", "PYTHONPATH": "/nowhere"}
    plain = json.loads(lab.app.run([*shell, *words], user=lab.alice, env=env).stdout)
    ours = [*shell, PROGRAM, "run", "--embedded", "--", *words]
    inside = json.loads(lab.app.run(ours, user=lab.alice, env=env).stdout)
    for known in ("rights", "ours"):
        plain.pop(known)
    rights, variables = inside.pop("rights"), inside.pop("ours")
    assert inside == plain
    assert set(rights) == {"0" * 16}
    assert variables.pop("OVERLAY_VPN_LAB") == lab.token
    assert variables["OVERLAY_VPN_TARGET"] == "embedded"
    assert set(variables) == {"OVERLAY_VPN_TARGET", "OVERLAY_VPN_ID"}


@DIRECT
def test_command_sees_loopback_and_the_tunnel_only(lab: Lab, runs: Runs) -> None:
    said = runs("ip", "-brief", "link").stdout.splitlines()
    assert [line.split()[0].partition("@")[0] for line in said] == ["lo", "ovpn0"]
    assert runs("cat", "/etc/hostname", "/etc/hosts").stdout.endswith("localhost\n")


@DIRECT
def test_exit_status_is_that_of_the_command(runs: Runs) -> None:
    for script, status in {"exit 7": 7, "exit 125": 125, "kill -9 $$": 137}.items():
        done = runs("sh", "-c", script, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@DIRECT
def test_exit_status_of_a_command_that_cannot_be_started(lab: Lab, runs: Runs) -> None:
    plain = lab.alice.home / "plain"
    plain.write_text("true\n")
    assert "nothing-here" in line_of(runs("nothing-here", check=False), 127)
    assert str(plain) in line_of(runs(plain, check=False), 126)


@pytest.mark.fidelity("hostname / suffix in policy")
@DIRECT
@pytest.mark.fidelity("deny rule → NXDOMAIN/REFUSED")
def test_rules_allow_and_deny_the_first_that_matches(lab: Lab, runs: Runs, web: Web) -> None:
    curl = "curl --silent --output /dev/null --write-out '%{http_code} ' "
    script = f"""
        {curl} http://www.example.com/; {curl} https://www.example.com/ --insecure
        {curl} http://git.example.com/; {curl} http://{TARGET.v4}/; echo
        dig www.test | grep -E -o 'status: REFUSED|EDE: 15'
    """
    rules = ("--allow", "www.example.com:80", "--deny", "*.example.com", "--allow", "*.com")
    said = runs("sh", "-c", script, options=(*EMBEDDED, *rules), check=False).stdout.splitlines()
    assert said[0].split() == ["200", "000", "000", "000"]
    assert sorted(said[1:]) == ["EDE: 15", "status: REFUSED"]


@DIRECT
def test_denied_address_is_refused_by_icmp(lab: Lab, runs: Runs, web: Web) -> None:
    source = """
import errno, socket, sys
for host in sys.argv[1:]:
    try:
        socket.create_connection((host, 80), 5).close()
        print("connected")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
"""
    options = (*EMBEDDED, "--deny", "203.0.113.0/24", "--deny", "[2001:db8:3::/64]:80")
    said = runs(sys.executable, "-c", source, *TARGET, options=options).stdout.split()
    assert said == ["EHOSTUNREACH", "EACCES"]


@DIRECT
def test_strict_turns_a_denied_contact_into_125(lab: Lab, runs: Runs, web: Web) -> None:
    rules = (*EMBEDDED, "--strict", "--allow", "www.example.com")
    assert runs("curl", "-s", "http://www.example.com/", options=rules).returncode == 0
    script = "curl -s http://git.example.com/; exit "
    assert runs("sh", "-c", f"{script} 0", options=rules, check=False).returncode == 125
    assert runs("sh", "-c", f"{script} 3", options=rules, check=False).returncode == 3


@DIRECT
def test_report_equals_what_the_wire_saw(lab: Lab, runs: Runs, web: Web) -> None:
    """Hosts, ports, flows and bytes of the report are those of the segments on the outer link."""
    (web.root / "big").write_bytes(os.urandom(200_000))
    places = {"v4only.example.com": TARGET.v4, "v6only.example.com": TARGET.v6}
    urls = [f"http://{name}/" for name in places] + [f"http://v4only.example.com:{CLOSED_PORT}/"]
    urls += [f"http://{TARGET.v4}/big", f"http://[{TARGET.v6}]:443/", f"http://{FILTERED.v4}/"]
    script = "for url; do curl --silent --max-time 5 --output /dev/null $url; done; exit 3"
    report = lab.alice.home / "report.json"
    rules = ("--deny", FILTERED.v4, "--report", str(report))
    done = runs("sh", "-c", script, "sh", *urls, options=(*EMBEDDED, *rules), check=False)
    assert done.returncode == 3
    document = json.loads(report.read_text())
    assert (document["schema"], document["exit_status"], document["target"]) == (1, 3, "embedded")
    assert document["command"] == ["sh", "-c", script, "sh", *urls]
    assert document["overflow"] is None
    assert report.stat().st_uid == lab.alice.uid
    flows: Counter[str] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    ports: set[tuple[str, int]] = set()
    for contact in document["contacts"]:
        assert document["start"] <= contact["first"] <= contact["last"] <= document["end"]
        host = places.get(contact["host"], contact["host"])
        if not contact["allowed"]:
            assert (host, contact["rule"]) == (FILTERED.v4, FILTERED.v4)
            continue
        flows[host] += contact["flows"]
        moved[host, "up"] += contact["bytes_up"]
        moved[host, "down"] += contact["bytes_down"]
        ports |= {(host, port) for port in contact["ports"]}
    seen = Wire(lab)
    assert (flows, ports) == (seen.flows, seen.ports)
    assert +moved == +seen.moved
    assert {contact["host"] for contact in document["contacts"]} == {*places, *TARGET, FILTERED.v4}


class Wire:
    """The TCP of the outer link: flows, payload and ports per far address.

    What was sent again counts once: by sequence number, or by the ports of the SYN.
    """

    def __init__(self, lab: Lab) -> None:
        self.flows: Counter[str] = Counter()
        self.moved: Counter[tuple[str, str]] = Counter()
        self.ports: set[tuple[str, int]] = set()
        octets: dict[tuple[str, str, bytes], set[int]] = {}
        syns: set[tuple[str, bytes]] = set()
        for packet in lab.outer.packets():
            frame = packet.frame[14:]
            if packet.frame[12:14] == b"\x08\x00" and frame[9] == 6:
                at, size = 4 * (frame[0] & 15), int.from_bytes(frame[2:4], "big")
                source, to = (socket.inet_ntop(socket.AF_INET, frame[n : n + 4]) for n in (12, 16))
            elif packet.frame[12:14] == b"\x86\xdd" and frame[6] == 6:
                at, size = 40, int.from_bytes(frame[4:6], "big") + 40
                source, to = (socket.inet_ntop(socket.AF_INET6, frame[n : n + 16]) for n in (8, 24))
            else:
                continue
            segment = frame[at:]
            payload = size - at - 4 * (segment[12] >> 4)
            flow = (source, "down", segment[:4]) if packet.is_outgoing else (to, "up", segment[:4])
            first = int.from_bytes(segment[4:8], "big")
            octets.setdefault(flow, set()).update(range(first, first + payload))
            if segment[13] & 0x12 == 0x02:
                syns.add((to, segment[:4]))
                self.ports.add((to, int.from_bytes(segment[2:4], "big")))
        self.flows.update(to for to, _ in syns)
        for (far, way, _), found in octets.items():
            self.moved[far, way] += len(found)


@DIRECT
def test_report_that_cannot_be_written_is_said(lab: Lab, runs: Runs) -> None:
    options = (*EMBEDDED, "--report", "/nowhere/report.json")
    done = runs("sh", "-c", "exit 0", options=options, check=False)
    assert "/nowhere/report.json" in line_of(done, 125)


@DIRECT
def test_published_port_is_reachable_from_the_host(lab: Lab, runs: Runs) -> None:
    server = [sys.executable, str(Path(tcp.__file__)), "serve", "echo", "127.0.0.1", "8080"]
    options = (
        *EMBEDDED,
        "--publish",
        "18080:8080",
        "--publish",
        f"{lab.app.address.v4}:18081:8080",
    )
    program = runs.start(*server, "0", options=options)
    program.says("^ready$")
    for address, port in (("127.0.0.1", 18080), (lab.app.address.v4, 18081)):
        with tcp.connect(lab.app, address, port) as stream:
            stream.sendall(b"published")
            assert stream.recv(64) == b"published"
    assert tcp.outcome(lab.app, "127.0.0.1", 8080) == "ECONNREFUSED"
    assert program.stop(timeout_s=20) == 128 + signal.SIGTERM
    until(lambda: tcp.outcome(lab.app, "127.0.0.1", 18080) == "ECONNREFUSED", 15, "the end")


@DIRECT
def test_static_names(lab: Lab, runs: Runs, web: Web) -> None:
    options = (*EMBEDDED, "--host", f"here.test={TARGET.v4}", "--host", f"db.test=[{TARGET.v6}]:80")
    script = "curl -sS http://here.test/ && curl -sS http://db.test:5432/"
    assert runs("sh", "-c", script, options=options).stdout == PAGE * 2


LOOPBACK = """
import socket, sys
for host in sys.argv[1:]:
    try:
        with socket.create_connection((host, 7000), 5) as one:
            one.sendall(b"x")
            print(one.recv(1))
    except OSError as error:
        print(error.errno)
"""


@DIRECT
def test_loopback_of_the_host_on_request_only(lab: Lab, runs: Runs) -> None:
    tcp.serve(lab.app, "echo", "127.0.0.1", 7000)
    named = (*EMBEDDED, "--host", "host.test=198.18.0.1")
    words = (sys.executable, "-c", LOOPBACK, "host.test", "127.0.0.1")
    assert runs(*words, "198.18.0.1", options=named).stdout.split() == ["111", "111", "111"]
    assert runs(*words, options=(*named, "--host-loopback")).stdout.split() == ["b'x'", "111"]


@DIRECT
def test_loopback_of_the_host_by_its_address(lab: Lab, runs: Runs) -> None:
    tcp.serve(lab.app, "echo", "127.0.0.1", 7000)
    words = (sys.executable, "-c", LOOPBACK, "198.18.0.1")
    assert runs(*words, options=(*EMBEDDED, "--host-loopback")).stdout.split() == ["b'x'"]


@DIRECT
def test_list_and_enter(lab: Lab, runs: Runs, web: Web) -> None:
    """Several at once, each in a network of its own."""
    assert runs.list() == []
    wait = ("sh", "-c", "readlink /proc/self/ns/net; exec sleep 100")
    first, second = runs.start(*wait), runs.start(*wait)
    spaces = [program.says(r"net:\[\d+\]")[0] for program in (first, second)]
    assert spaces[0] != spaces[1]
    listed = {run["pid"]: run for run in runs.list()}
    assert set(listed) == {first.pid, second.pid}
    run = listed[second.pid]
    assert (run["target"], run["command"]) == ("embedded", list(wait))
    text = runs.cli("list").stdout.splitlines()
    assert len(text) == 2
    assert any(line.startswith(run["id"]) and str(second.pid) in line for line in text)
    script = "readlink /proc/self/ns/net; curl -sS http://www.example.com/; exit 9"
    done = runs.cli("enter", run["id"], "--", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout) == (9, f"{spaces[1]}\n{PAGE}")
    inside = lab.app.popen(
        [PROGRAM, "enter", run["id"], "--", "sh", "-c", "echo in; exec sleep 100"],
        user=lab.alice,
        env=runs.env,
    )
    inside.says("^in$")
    second.stop(timeout_s=20)
    assert inside.wait(20) == 128 + signal.SIGKILL
    assert [run["pid"] for run in runs.list()] == [first.pid]


@DIRECT
def test_enter_what_is_not_there(runs: Runs) -> None:
    line = line_of(runs.cli("enter", "0123abcd", "--", "true", check=False), 125)
    assert "0123abcd" in line
    assert "overlay-vpn list" in line
    assert "--" in line_of(runs.cli("enter", "0123abcd", check=False), 125)


@DIRECT
def test_entry_of_a_run_that_was_killed_is_removed(lab: Lab, runs: Runs) -> None:
    program = runs.start("sh", "-c", "echo in; exec sleep 100")
    program.says("^in$")
    assert len(runs.entries()) == 1
    kill((*(one.pid for one in lab.app.processes()), program.pid))
    program.wait()
    assert len(runs.entries()) == 1
    assert runs.list() == []
    assert runs.entries() == []


@DIRECT
def test_registry_that_is_not_ours_alone_is_refused(lab: Lab, runs: Runs) -> None:
    (runs.runtime / "overlay-vpn").mkdir(mode=0o755)
    line = line_of(runs("true", check=False), 125)
    assert "XDG_RUNTIME_DIR" in line
