"""The server in the root that its unit describes: complete, and with each bind taken away.

app ──── router ──── server, in a root with the binds of the unit ──── target

systemd is not the first process here, so the root is made as systemd would make it (lab/root.py),
from the unit that `service install` has written for this installation.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from lab import Lab, services, tcp
from lab.addresses import CLOSED_PORT, TARGET
from lab.capture import Flow
from lab.host import Program
from lab.overlay import PORT, PROGRAM, Endpoint, Overlay
from vpn.systemd import closure
from vpn.systemd.installer import Place

NAME = "overlay-vpn-server.service"
BIND = re.compile(r"^BindReadOnlyPaths=(.+)\n", re.MULTILINE)


class Rooted:
    """The server's unit, as installed on it, and starts of it."""

    def __init__(self, lab: Lab, overlay: Overlay) -> None:
        self.lab = lab
        self.place = Place(lab.tmp / "system")
        overlay.cli("service", "install", "server", "--root", str(self.place.root))
        self.text = self.place.unit(NAME).read_text()
        self.binds = BIND.findall(self.text)
        self.credentials = lab.service.home / "credentials"
        self.credentials.mkdir()
        lab.server.run([PROGRAM, "keygen", self.credentials / "identity"])
        shutil.copy(overlay.authorized_keys, self.credentials)
        for path in (self.credentials, *self.credentials.iterdir()):
            os.chown(path, lab.service.uid, lab.service.gid)
            path.chmod(0o500 if path.is_dir() else 0o400)
        self._numbers = iter(range(1000))

    def start(self, without: str = "") -> Program:
        """Start the server in a new root, with a bind less."""
        directory = self.lab.tmp / f"root-{next(self._numbers)}"
        directory.mkdir()
        unit = directory.with_suffix(".service")
        unit.write_text(self.text.replace(f"BindReadOnlyPaths={without}\n", ""))
        enter = ["unshare", "--mount", sys.executable, "-m", "lab.root", unit, directory]
        paths = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
        return self.lab.server.popen(
            [*enter, str(self.lab.service.uid), self.credentials], env={"PYTHONPATH": paths}
        )


@pytest.fixture
def rooted(lab: Lab, overlay: Overlay) -> Rooted:
    return Rooted(lab, overlay)


def test_complete_root_carries_a_session(lab: Lab, overlay: Overlay, rooted: Rooted) -> None:
    """No user database, no CA certificates, no shell and no program but one are in it."""
    services.names(lab.target)
    web = services.web(lab, lab.target)
    server = rooted.start()
    pin = server.says(r"--host-key (SHA256:[\w+/=]+)")[1]
    assert "Seccomp:\t2\n" in Path(f"/proc/{server.pid}/status").read_text()
    key = (rooted.credentials / "identity").read_bytes().split(b"\n")[1]
    told = [Path(f"/proc/{server.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert b"/identity\0" in told[0]  # where the key is, but
    assert key not in b"".join(told)
    found = [
        path
        for path in ("/etc/hosts", "/etc/passwd", "/etc/ssl", "/bin/sh", "/usr/bin/env")
        if lab.server.path(f"/proc/{server.pid}/root{path}").exists()
    ]
    address = lab.server.address.v4
    endpoint = Endpoint(
        server, f"{address}:{PORT}", ("--host-key", pin), Flow("udp", address, PORT)
    )
    overlay.up(endpoint)
    curl = ["curl", "--silent", "--fail", "--cacert", web.ca, "https://www.example.com/"]
    assert lab.app.run(curl, user=lab.alice).stdout == "hello from the lab\n"
    assert "NXDOMAIN" in lab.app.run(["dig", "nothing.example.com"]).stdout
    assert tcp.outcome(lab.app, TARGET.v6, CLOSED_PORT) == "ECONNREFUSED"
    overlay.down()
    assert server.stop(timeout_s=30) == 0
    assert found == ["/etc/hosts"]
    assert server.stderr == ""


def test_each_bind_taken_away_is_named_and_the_start_fails(
    lab: Lab, overlay: Overlay, rooted: Rooted
) -> None:
    assert len(rooted.binds) > 10
    needs = closure.needs()
    pairs = [(bind, bind) for bind in rooted.binds]
    starts = {}
    for bind in rooted.binds:
        less = [pair for pair in pairs if pair[0] != bind]
        assert bind in {closure.missing(need.path, less) for need in needs}
        starts[bind] = rooted.start(without=bind)
    for bind, start in starts.items():
        assert start.wait() != 0, bind
        names = {bind, Path(bind).name, Path(bind).parent.name}
        is_named = any(name in start.stderr for name in names)
        assert is_named or "Failed to execute" in start.stderr, f"{bind}: {start.stderr}"


def test_check_says_what_is_missing_and_drop_ins_count(
    lab: Lab, overlay: Overlay, rooted: Rooted
) -> None:
    for name in ("identity", "authorized_keys"):
        path = rooted.place.of(Path("/etc/overlay-vpn", name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    argv = ("service", "check", "server", "--root", str(rooted.place.root))
    assert overlay.cli(*argv).stderr == ""
    unit = rooted.place.unit(NAME)
    gone = ("/etc/resolv.conf", next(bind for bind in rooted.binds if "libcrypto" in bind))
    unit.write_text(re.sub(f"BindReadOnlyPaths=({'|'.join(gone)})\n", "", rooted.text))
    done = overlay.cli(*argv, check=False)
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for bind in gone:
        assert any(f"'BindReadOnlyPaths={bind}'" in line for line in lines)
    drop_in = unit.with_name(f"{NAME}.d") / "more.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nBindReadOnlyPaths={' '.join(gone)}\n")
    assert overlay.cli(*argv).stderr == ""
