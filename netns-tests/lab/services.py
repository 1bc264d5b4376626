"""The real programs at the far end: nginx, git, OpenSSH, iperf3, and DNS."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lab import addresses
from lab.host import Host, Program, User
from lab.topology import Lab
from lab.wait import until

DOMAIN = "example.com"
_PLACES = {
    "www": addresses.TARGET,
    "git": addresses.TARGET,
    "filtered": addresses.FILTERED,
    "prohibited": addresses.PROHIBITED,
    "absent": addresses.ABSENT,
    "noroute": addresses.NO_ROUTE,
}
ZONE = f"""
$ORIGIN {DOMAIN}.
$TTL 300
@        IN SOA ns hostmaster 1 3600 600 86400 60
@        IN NS  ns
@        IN MX  10 www
@        IN TXT "v=spf1 -all"
ns       IN A   {addresses.TARGET.v4}
v4only   IN A   {addresses.TARGET.v4}
v6only   IN AAAA {addresses.TARGET.v6}
alias    IN CNAME www
_ssh._tcp IN SRV 0 0 22 git
""" + "".join(f"{n} IN A {at.v4}\n{n} IN AAAA {at.v6}\n" for n, at in _PLACES.items())
"""example.com: any other name in it does not exist."""

_CERTIFIED = [f"DNS:{DOMAIN}", f"DNS:*.{DOMAIN}", *(f"IP:{one}" for one in addresses.TARGET)]


def names(host: Host, zone: str = ZONE) -> Program:
    """Serve a zone on both addresses of a host. Its output has a line per question asked."""
    program = Path(__file__).with_name("zone.py")
    lab = {"PYTHONPATH": str(program.parents[1])}
    server = host.popen([sys.executable, program, *host.address], stdin=zone, env=lab)
    server.says("^ready$")
    return server


@dataclass(frozen=True)
class Web:
    """A web server: what lies in `root` is at http:// and https://, certified by `ca`."""

    program: Program
    root: Path
    ca: Path


def web(lab: Lab, host: Host) -> Web:
    """Start nginx on ports 80 and 443 with a page `index.html` that says "hello from the lab"."""
    base = lab.tmp / "web"
    root = base / "root"
    root.mkdir(parents=True)
    (root / "index.html").write_text("hello from the lab\n")
    _certificate(host, base)
    # One process: a worker would change to a user that a user namespace may not have.
    conf = f"""
        daemon off; master_process off; user root; pid {base}/pid; error_log stderr;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; default_type application/octet-stream;
            keepalive_requests 1000000;
            client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3;
            uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5;
            server {{
                listen *:80; listen [::]:80; listen *:443 ssl; listen [::]:443 ssl;
                ssl_certificate {base}/site.pem; ssl_certificate_key {base}/site.key;
                root {root};
            }}
        }}"""
    (base / "nginx.conf").write_text(conf)
    program = host.popen(["nginx", "-e", "stderr", "-p", base, "-c", base / "nginx.conf"])
    _wait_for_port(host, 443, program)
    return Web(program, root, base / "ca.pem")


def _certificate(host: Host, base: Path) -> None:
    new = ["openssl", "req", "-x509", "-nodes", "-days", "2"]
    new += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    ca = ["-keyout", f"{base}/ca.key", "-out", f"{base}/ca.pem", "-subj", "/CN=lab"]
    host.run([*new, *ca, "-addext", "keyUsage=critical,keyCertSign"])
    site = ["-keyout", f"{base}/site.key", "-out", f"{base}/site.pem", "-subj", f"/CN={DOMAIN}"]
    signer = ["-CA", f"{base}/ca.pem", "-CAkey", f"{base}/ca.key"]
    usage = ["-addext", "basicConstraints=critical,CA:FALSE"]
    usage += ["-addext", f"subjectAltName={','.join(_CERTIFIED)}"]
    host.run([*new, *site, *signer, *usage])


def repository(host: Host, root: Path) -> Path:
    """Make a repository with one commit in `root`, ready for dumb HTTP and for SSH."""
    path = root / "project.git"
    script = """
        git init --quiet --bare "$1"
        tree=$(git -C "$1" hash-object -w --stdin </etc/gitconfig |
            xargs printf '100644 blob %s\\tREADME\\n' | git -C "$1" mktree)
        commit=$(git -C "$1" -c user.name=lab -c user.email=lab@example.com \
            commit-tree -m first "$tree")
        git -C "$1" update-ref refs/heads/main "$commit"
        git -C "$1" update-server-info
    """
    host.run(["sh", "-euc", script, "make", path])
    return path


def client_key(lab: Lab, user: User) -> Path:
    """Return the private key of a user, made on first use; the lab's sshds accept it."""
    key = user.home / ".ssh" / "id_ed25519"
    if not key.exists():
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user.name, "-f", str(key)]
        key.parent.mkdir(mode=0o700)
        lab.app.run(make)
        (key.parent / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        for path in (key.parent, *key.parent.iterdir()):
            os.chown(path, user.uid, user.gid)
    return key


class Sshd(NamedTuple):
    """A stock OpenSSH server and its identity, such as "SHA256:…"."""

    program: Program
    port: int
    fingerprint: str


def sshd(lab: Lab, host: Host, port: int = 22, extra: Sequence[str] = ()) -> Sshd:
    """Start sshd; `extra` are lines of sshd_config(5). The users of the lab know its host key.

    Anyone may log in with the key that is accepted in the account's home (`client_key`).
    """
    base = lab.tmp / f"sshd-{host.name}-{port}"
    base.mkdir()
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "key"])
    listing = host.run(["ssh-keygen", "-lf", base / "key.pub"]).stdout
    lines = [
        *extra,
        f"Port {port}",
        f"HostKey {base}/key",
        # /tmp is open to everyone, which StrictModes does not accept above a home.
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PasswordAuthentication no",
        "Subsystem sftp internal-sftp",
    ]
    (base / "config").write_text("\n".join([*lines, ""]))
    program = host.popen(["/usr/sbin/sshd", "-D", "-e", "-f", base / "config"])
    program.says(r"Server listening on 0\.0\.0\.0")
    program.says(r"Server listening on ::")
    known = [*host.address, *(f"{n}.{DOMAIN}" for n, at in _PLACES.items() if at == host.address)]
    marks = ",".join(known if port == 22 else [f"[{one}]:{port}" for one in known])
    public = " ".join((base / "key.pub").read_text().split()[:2])
    for user in set(lab.users):
        path = client_key(lab, user).with_name("known_hosts")
        with path.open("a") as file:
            file.write(f"{marks} {public}\n")
        os.chown(path, user.uid, user.gid)
    return Sshd(program, port, listing.split()[1])


def iperf3(host: Host, address: str = "") -> Program:
    """Start an iperf3 server on its port 5201.

    Over UDP it answers from whatever address the host prefers, unless it is bound to one.
    """
    bound = ["--bind", address] if address else []
    program = host.popen(["iperf3", "--server", "--forceflush", *bound])
    program.says("Server listening")
    return program


def throughput_mbit_s(
    host: Host, address: str, *, is_reverse: bool = False, seconds: int = 1
) -> float:
    """Measure with iperf3 from a host to (reverse: from) an address, at the receiver."""
    direction = ["--reverse"] if is_reverse else []
    argv = ["iperf3", "--json", "--client", address, "--time", str(seconds), *direction]
    results = []

    def is_measured() -> bool:
        done = host.run(argv, check=False, timeout=seconds + 20)
        results.append(json.loads(done.stdout))
        # The server may not have heard yet that the test before is over, or listens anew.
        said = results[-1].get("error", "")
        return not any(word in said for word in ("busy", "refused", "reset"))

    until(is_measured, 10 + seconds, "the iperf3 server to be free")
    result = results[-1]
    if "sum_received" not in result["end"]:
        raise AssertionError(f"iperf3 has no result: {json.dumps(result)}")
    return float(result["end"]["sum_received"]["bits_per_second"]) / 1e6


def _wait_for_port(host: Host, port: int, program: Program) -> None:
    filters = ["ss", "-Htnl", "sport", "=", f":{port}"]
    until(lambda: host.run(filters).stdout or not program.is_alive, 30, f"port {port}")
    if not program.is_alive:
        raise AssertionError(f"nothing on port {port}: {program}")
