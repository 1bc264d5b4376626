"""S2 and S3: what a client that was taken over can do with what it holds.

In this process: each message in each state, and a million random packets, against the real link
and dispatch of the monitor and the gate, over a network that only remembers. Then on live ones.

    app: hostile client ─┬─ monitor ─ launcher          the client has dropped to alice
                         └─ gate ─ flows
"""

from __future__ import annotations

import mmap
import os
import re
import signal
import socket
import sys
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dns.pool import Pool, buffer_size
from lab import Lab, Program, state, until
from lab.addresses import APP, TARGET
from lab.extremes import encodings, kinds, noise
from lab.overlay import Overlay
from shim.gate.io.loop import Gate
from shim.gate.resolver import Names
from shim.monitor.plan import EVERYTHING
from shim.monitor.service import TABLE, Phase, Service
from shim.netlink.changes import Change
from shim.protocol import POOL4, POOL6, VERSION
from shim.protocol.common import Hello
from shim.protocol.gate import GATE, Configure, ToGate
from shim.protocol.link import Link, LinkClosedError, Role, ViolationError
from shim.protocol.monitor import (
    MONITOR,
    Capture,
    Down,
    Mark,
    ToMonitor,
)

PACKETS = 1_000_000
SEED = 4
MANY = 253
"""As many descriptors as one message can carry (unix(7), SCM_MAX_FD)."""

WAY_TO = {
    Phase.NEW: (),
    Phase.READY: (Hello(VERSION),),
    Phase.CAPTURING: (Hello(VERSION), Capture(True, True, (), kill_switch=True)),
    Phase.OVER: (Down(),),
}


class World:
    """A state and a netlink in one: remembers what was made, and makes nothing."""

    def __init__(self) -> None:
        self.held: list[Change] = []
        self.calls = 0

    def make(self, first: object, plan: list[Change] | None = None) -> None:
        self.calls += 1
        if plan is not None:
            self.held = list(plan)

    def revert(self, _: Change) -> None:
        self.calls += 1

    def pause(self, _: Change, seconds: int) -> None:
        assert 0 <= seconds <= 3600
        self.calls += 1


class Side:
    """One end of a link, and the raw socket of the hostile one at the other end."""

    def __init__(self, role: Role) -> None:
        self.raw, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self.raw, ours):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.raw.setblocking(False)
        self.link = Link(ours, role)

    def hear(self, packet: bytes, fds: list[int] | None = None) -> bool:
        """Be sent a packet and take it. Returns whether the link was kept."""
        socket.send_fds(self.raw, [packet], fds or [])
        return self.take()

    def take(self) -> bool:
        """Receive and carry out."""
        raise NotImplementedError

    def drain(self) -> None:
        """Take what was answered, as a client does."""
        while True:
            try:
                _, fds, _, _ = socket.recv_fds(self.raw, 1 << 17, 8)
            except BlockingIOError:
                return
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        self.raw.close()
        self.link.close()


class MonitorSide(Side):
    """The dispatch of a monitor in a state."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(MONITOR)
        self.world = World()
        self.others = socket.socketpair()
        self.service = Service(
            self.link,
            self.world,  # type: ignore[arg-type]
            self.world,  # type: ignore[arg-type]
            (4, 6),
            tuple(map(ip_network, EVERYTHING)),
            *self.others,
            b"",
            (),
        )
        for message in WAY_TO[phase]:
            self.service._on_message(message, [])
        self.drain()
        self.before = self.world.calls

    def take(self) -> bool:
        try:
            received = self.link.receive()
            if received is not None:
                self.service._on_message(*received)
        except (ViolationError, LinkClosedError):
            return False
        return True

    def close(self) -> None:
        super().close()
        for sock in self.others:
            sock.close()


class GateSide(Side):
    """The dispatch of a gate, configured or not."""

    def __init__(self, *, is_configured: bool) -> None:
        super().__init__(GATE)
        self.null = os.open("/dev/null", os.O_RDWR)
        pool = Pool(
            memoryview(mmap.mmap(-1, buffer_size(64))),
            IPv4Network(POOL4),
            IPv6Network(POOL6),
            b"key",
            64,
        )
        self.listener = socket.socket()
        self.gate = Gate(self.null, self.null, self.listener, self.link, Names(pool), 1)
        self.datagrams: socket.socket | None = None
        if is_configured:
            self.datagrams, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.gate._on_message(Configure(True, ()), [theirs.detach()])
        self.drain()

    def take(self) -> bool:
        try:
            self.gate._on_client()
        except (ViolationError, LinkClosedError):
            return False
        return True

    def close(self) -> None:
        super().close()
        os.close(self.null)
        self.listener.close()
        self.gate._datagrams.close()
        self.gate._poll.close()
        if self.datagrams is not None:
            self.datagrams.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def every(receives: Any) -> list[bytes]:
    return [packet for kind in kinds(receives) for packet in encodings(kind)]


def is_valid(role: Role, packet: bytes) -> bool:
    """Whether a packet is a message of a link, as the decoder and the sizes have it."""
    try:
        message = role.decoder.decode(packet)
    except (msgspec.MsgspecError, ValueError):
        return False
    return len(packet) <= message.SIZE


def test_each_message_is_covered_in_each_state() -> None:
    """The detector: what is sent really has the good and the bad of every type."""
    for role, receives in ((MONITOR, ToMonitor), (GATE, ToGate)):
        for kind in kinds(receives):
            made = encodings(kind)
            valid = [one for one in made if is_valid(role, one)]
            assert valid, kind
            assert len(valid) < len(made), kind
    assert set(TABLE) == set(kinds(ToMonitor))
    assert set(WAY_TO) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_monitor_obeys_the_table_and_nothing_else(phase: Phase) -> None:
    before = descriptors()
    for packet in every(ToMonitor):
        side = MonitorSide(phase)
        kept = side.hear(packet)
        side.drain()
        message = MONITOR.decoder.decode(packet) if is_valid(MONITOR, packet) else None
        if message is None or phase not in TABLE[type(message)].phases:
            assert not kept, packet[:80]
        if not kept or isinstance(message, Hello | Mark | Down):
            assert side.world.calls == side.before, packet[:80]
        side.close()
    assert descriptors() == before


@pytest.mark.parametrize("is_configured", [False, True])
def test_gate_takes_any_value_of_any_message(is_configured: bool) -> None:
    """It has one state; what is decoded is obeyed or ignored, but for what lacks its descriptor."""
    before = descriptors()
    side = GateSide(is_configured=is_configured)
    for packet in every(ToGate):
        kept = side.hear(packet)
        assert is_valid(GATE, packet) >= kept, packet[:80]
        assert kept or not is_valid(GATE, packet) or GATE.decoder.decode(packet).FDS, packet[:80]
        side.drain()
    side.gate._on_tick(0.0)
    side.close()
    assert descriptors() == before


@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["monitor", "gate"])
def test_half_a_million_random_packets_each(which: str) -> None:
    """A packet that is no message ends nothing here, so that one link is asked all of them."""
    receives: Any = ToMonitor if which == "monitor" else ToGate
    side: MonitorSide | GateSide = (
        MonitorSide(Phase.READY) if which == "monitor" else GateSide(is_configured=True)
    )
    role = MONITOR if which == "monitor" else GATE
    valid = [one for one in every(receives) if is_valid(role, one) and len(one) < 512]
    packets = noise(valid, role.largest, SEED)
    before = descriptors()
    kept = 0
    for number in range(PACKETS // 2):
        packet = next(packets)
        kept += side.hear(packet, [0] * (1 + number % MANY) if number % 101 == 0 else None)
        if number % 64 == 0:
            side.drain()
            if isinstance(side, MonitorSide) and side.service.phase is not Phase.READY:
                side.service.phase = Phase.READY
    assert 0 < kept < PACKETS // 4
    assert descriptors() == before
    side.close()


# On live processes.


def hostile(lab: Lab, *words: str) -> Program:
    script = str(Path(__file__).parent / "lab/hostile.py")
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    return lab.app.popen([sys.executable, script, str(lab.alice.uid), *words], env=paths)


@pytest.mark.timeout(400)
def test_first_violation_closes_the_link_and_leaves_nothing(lab: Lab) -> None:
    program = hostile(lab, "violate")
    assert program.wait(360) == 0, str(program)
    said = dict(line.rpartition(" ")[::2] for line in program.stdout.splitlines())
    assert said.pop("nothing") == "kept"  # the detector
    assert len(said) == 29
    assert set(said.values()) == {"closed"}, said


CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], 8080)).close()
"""
LISTENER = """
import socket
with socket.create_server(("0.0.0.0", 8080)) as listener:
    print("ready", flush=True)
    while True:
        print("from", listener.accept()[1][0], flush=True)
"""


REACH = {
    "the device `ovpn0` with its two addresses": (
        r"(link|address|queue|sysctl) \+ .*ovpn0.*",
        r"route \+ .*dev ovpn0.*proto kernel.*",
    ),
    "one routing table, 7200, that leads into the device": (
        r"route \+ .* table 7200 proto 118 .*",
    ),
    "routing rules of priority 7200 to 7220": (r"rule \+ v[46] 72[012]\d: .* proto 118",),
    "with the kill switch, the nftables tables `overlay-vpn`": (
        r"nft \+ (table inet overlay-vpn|chain \w+ { type filter hook) .*",
        r"nft - $",  # the empty list that was there before
    ),
    "one directory of three files in `/run/overlay-vpn`": (
        r"file \+ /run/overlay-vpn(/net-\d+(/(lock|journal|client.sock))?)? .*",
        r"socket \+ u_seq LISTEN .*/client.sock .*",
    ),
    "the processes of the shim": (r"process \+ \d+ \S+ -I -B -m shim.(launcher|monitor|gate)",),
}
"""What the list in SECURITY.md says, and how it looks on the host."""


def test_list_of_what_can_be_reached_is_the_one_of_the_document() -> None:
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    _, _, section = text.partition("## What a compromised client can do\n")
    items = re.findall(r"^- (.*?)[;.]\n(?=- |\n)", section.partition("\n## ")[0], re.M | re.S)
    listed = [" ".join(item.split()) for item in items]
    assert [item.partition(" (")[0] for item in listed] == list(REACH)


def unlisted(lines: list[str]) -> list[str]:
    patterns = [f"app: {one}" for some in REACH.values() for one in some]
    return [line for line in lines if not any(re.fullmatch(one, line) for one in patterns)]


@pytest.mark.timeout(240)
def test_client_that_was_taken_over_reaches_what_is_listed_and_nothing_else(
    lab: Lab, overlay: Overlay
) -> None:
    listener = lab.app.popen([sys.executable, "-c", LISTENER])
    listener.says("^ready$")
    lab.app.run([sys.executable, "-c", CONNECT, APP.v4])
    listener.says(f"^from {APP.v4}")  # the detector
    before = state.snapshot(lab.app)
    program = hostile(lab, "all", APP.v4, "8080")
    program.says("^sockets 200$", timeout_s=60)
    program.says("^captured Captured$")
    program.says("^holding$", timeout_s=60)
    found = state.diff(before, state.snapshot(lab.app))
    assert unlisted([*found, "app: route + default via 192.0.2.9"]) == [
        "app: route + default via 192.0.2.9"  # the detector
    ]
    assert len(found) > 512  # a rule for each prefix, at least
    lab.app.popen(["nc", TARGET.v4, "9999"])
    assert program.says("^spoofed (.*)$")[1].startswith("not connected")
    assert listener.stdout.count("from") == 1
    program.stop(signal.SIGKILL)
    until(lambda: not lab.app.processes(), 10, "the end of the shim")
    assert unlisted(state.diff(before, state.snapshot(lab.app))) == []
    overlay.recover()
    assert state.diff(before, state.snapshot(lab.app)) == []
