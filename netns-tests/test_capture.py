"""`capture` shows its user, and nobody else, every packet of the captured side, with names.

app ──── router ──── server ──── target      captured on ovpn0 of the app, or inside a run
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.utils import PcapNgReader
from test_gate_restart import gates_of

from lab import Lab, Program, services, tcp, until
from lab.addresses import CLOSED_PORT, TARGET
from lab.overlay import PROGRAM, Overlay

ECHO = 7001
NAME = b"www.example.com"


def packets(path: Path) -> list[Any]:
    """The packets of a file, each one read to its end and no other bytes behind the last."""
    with PcapNgReader(str(path)) as reader:
        found = list(reader)
        assert reader.f.read() == b""
    return found


def start(overlay: Overlay, *words: str | Path) -> Program:
    program = overlay.lab.app.popen([PROGRAM, "capture", *words], env=overlay.sudo)
    program.says("capturing")
    return program


def fetch(lab: Lab) -> None:
    page = lab.app.run(["curl", "-4", "--silent", "--fail", "http://www.example.com/"]).stdout
    assert page == "hello from the lab\n"


def test_known_exchange_is_in_the_file_with_its_name(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    overlay.up(overlay.serve())
    path = lab.alice.home / "file.pcapng"
    program = start(overlay, "-w", path)
    fetch(lab)
    gates_of(overlay).kill()
    fetch(lab)
    assert "there is a capture already" in overlay.cli("capture", check=False).stderr
    program.stop(signal.SIGINT, 20)
    assert program.wait() == 0
    found = packets(path)
    assert f"{len(found)} packets, 0 lost" in program.stderr
    assert path.stat().st_mode & 0o777 == 0o600

    web = [one for one in found if TCP in one and 80 in (one[TCP].sport, one[TCP].dport)]
    assert {one.comments[0] for one in web} == {NAME}
    out = [one for one in web if one[TCP].dport == 80]
    assert {one.direction for one in out} == {2}
    assert {one.direction for one in web if one not in out} == {1}
    assert len({one[TCP].sport for one in out if one[TCP].flags == "S"}) == 2
    assert any(b"GET / HTTP/1.1" in bytes(one) for one in out)
    assert any(b"hello from the lab\n" in bytes(one) for one in web)
    times = [float(one.time) for one in found]
    assert times == sorted(times)
    dns = [one for one in found if UDP in one and one[UDP].dport == 53]
    assert dns
    assert not any(one.comments for one in dns)


@pytest.mark.fidelity("TUN offload (GSO/GRO, vnet_hdr)")
def test_bulk_passes_in_units_that_no_link_has(lab: Lab, overlay: Overlay) -> None:
    """One read and one write of the gate is many packets of the link below (1 500 bytes)."""
    services.iperf3(lab.target)
    overlay.up(overlay.serve(), "--dns", "virtual")
    path = lab.alice.home / "bulk.pcapng"
    program = start(overlay, "-w", path, "tcp")
    for is_reverse in (False, True):
        assert services.throughput_mbit_s(lab.app, TARGET.v4, is_reverse=is_reverse) > 0
    program.stop(signal.SIGINT, 20)
    found = packets(path)
    for direction in (1, 2):
        assert max(one.wirelen for one in found if one.direction == direction) > 20 * 1500


def test_lines_are_those_that_the_filter_takes(lab: Lab, overlay: Overlay) -> None:
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(overlay.serve())
    words = ("tcp", "and", "host", TARGET.v4, "and", f"port {CLOSED_PORT}")
    program, two = start(overlay, *words), ("-c", "2", *words)
    assert tcp.outcome(lab.app, TARGET.v4, ECHO) == "connected"
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    until(lambda: "[R.]" in program.stdout, 15, "the reset")
    assert program.stop(signal.SIGINT, 20) == 0
    syn, *again, reset = program.stdout.splitlines()
    assert all("[S], length 0" in line for line in again)  # a SYN that was held for a second
    assert f"> {TARGET.v4}:{CLOSED_PORT}: [S], length 0" in syn
    assert f"TCP {TARGET.v4}:{CLOSED_PORT} >" in reset
    assert "[R.], length 0" in reset
    program = start(overlay, *two)
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    assert program.wait() == 0
    assert len(program.stdout.splitlines()) == 2
    bad = overlay.cli("capture", "tpc", check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "cannot read the filter at 'tpc': write tcp, udp" in bad.stderr
    if lab.is_multi_user:
        path = lab.service.home / "none"
        words = (PROGRAM, "capture", "-w", str(path))
        other = lab.app.run(words, user=lab.service, check=False)
        assert (other.returncode, other.stdout) == (77, "")
        assert "belongs to another user" in other.stderr
        assert not path.exists()
    nobody_reads(overlay)
    no_room(overlay)
    end_of_the_tunnel(overlay)


def nobody_reads(overlay: Overlay) -> None:
    """A reader that goes away ends the capture, and no error is made of it."""
    script = f"{PROGRAM} capture | head -n 1"
    program = overlay.lab.app.popen(["sh", "-c", script], env=overlay.sudo)
    program.says("capturing")

    def is_over() -> bool:
        tcp.outcome(overlay.lab.app, TARGET.v4, CLOSED_PORT, 3)
        return not program.is_alive

    until(is_over, 10, "the end of the pipe")
    assert program.wait() == 0
    assert "Traceback" not in program.stderr


def no_room(overlay: Overlay) -> None:
    """A full disk is one line, and what was written is a file."""
    lab = overlay.lab
    disk = lab.tmp / "disk"
    disk.mkdir()
    lab.app.run(["mount", "-t", "tmpfs", "-o", "size=4k", "lab-disk", disk])
    path = lab.app.path(str(disk)) / "full.pcapng"
    program = start(overlay, "-w", disk / "full.pcapng")

    def is_over() -> bool:
        tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT, 3)
        return not program.is_alive

    until(is_over, 30, "a full disk")
    assert program.wait() == 1
    assert program.stderr.splitlines()[-1] == (
        f"overlay-vpn: cannot write {disk}/full.pcapng: No space left on device; "
        "it has what came before"
    )
    assert all(IP in one for one in packets(path))
    lab.app.run(["umount", disk])


def end_of_the_tunnel(overlay: Overlay) -> None:
    """The capture of a tunnel ends with it."""
    path = overlay.lab.alice.home / "ended.pcapng"
    program = start(overlay, "-w", path)
    overlay.down()
    assert program.wait() == 1
    assert "the tunnel has ended" in program.stderr
    assert packets(path) == []
    gone = overlay.cli("capture", check=False)
    assert (gone.returncode, gone.stderr) == (
        1,
        "overlay-vpn: overlay-vpn is not up here; see 'overlay-vpn status'\n",
    )


def test_idle_tunnel_is_silent(lab: Lab, overlay: Overlay) -> None:
    """No kernel looks for routers on our devices, as it would every 4 s (RFC 4861 §6.3.7)."""
    overlay.up(overlay.serve())
    path = lab.alice.home / "idle.pcapng"
    program = start(overlay, "-w", path)
    time.sleep(5)
    program.stop(signal.SIGINT, 20)
    assert packets(path) == []


def test_packets_of_a_run_are_captured(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    endpoint = overlay.serve()
    go = lab.alice.home / "go"
    os.mkfifo(go)
    os.chown(go, lab.alice.uid, lab.alice.gid)
    words = (PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", str(overlay.identity))
    script = f"echo ready; cat {go} && curl --silent http://www.example.com/"
    program = lab.app.popen([*words, "--", "sh", "-c", script], user=lab.alice)
    program.says("^ready$", timeout_s=30)
    run_id = lab.app.run([PROGRAM, "list"], user=lab.alice).stdout.split()[0]
    path = lab.alice.home / "file.pcapng"
    capture = (PROGRAM, "capture", "--run", run_id, "-w", str(path), "tcp and host www.example.com")
    reader = lab.app.popen(capture, user=lab.alice)
    reader.says("capturing")
    go.write_text("")
    assert program.wait() == 0
    assert "hello from the lab" in program.stdout
    assert reader.wait() == 1
    assert "the tunnel has ended" in reader.stderr
    found = packets(path)
    assert any(b"hello from the lab\n" in bytes(one) for one in found)
    assert {tuple(one.comments) for one in found} == {(NAME,)}
