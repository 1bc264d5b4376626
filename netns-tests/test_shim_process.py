"""S4 and S7: what the privileged processes hold, and that any of them may be killed at any time.

app: client ─ launcher ─┬─ monitor
                      └─ supervisor ─ gate          each found by its parent and its program
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from lab import Lab, kill, services, state, tcp, until
from lab.addresses import TARGET
from lab.overlay import PROGRAM, Endpoint, Overlay
from lab.ways import Way

NET_ADMIN = 1 << 12
HEAVY = ("asyncssh", "aioquic", "cryptography", "scapy", "uvloop")
KILLS = 50
GONE_WITHIN_S = 2.0


@dataclass(frozen=True)
class Processes:
    """The processes of one instance, by what they are."""

    client: int
    launcher: int
    monitor: int
    supervisor: int
    gate: int


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def instance(client: int) -> Processes:
    """Follow the children of a client down to the gate."""
    (launcher,) = children(client)
    (monitor,) = [pid for pid in children(launcher) if runs(pid, "shim.monitor")]
    (supervisor,) = [pid for pid in children(launcher) if runs(pid, "shim.gate")]
    (gate,) = children(supervisor)
    return Processes(client, launcher, monitor, supervisor, gate)


def runs(pid: int, module: str) -> bool:
    with suppress(OSError):
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def capabilities(pid: int) -> dict[str, int]:
    found = status(pid)
    return {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}


LOOK = pytest.mark.ways("up ours")
"""For who only looks at an instance: they share one."""


@pytest.fixture(scope="module")
def site(way: Way) -> None:
    services.web(way.lab, way.lab.target)


@pytest.fixture
def processes(way: Way, site: None) -> Processes:
    way.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
    return instance(way.overlay.status()["pid"])


# S4: what they hold.


@LOOK
def test_monitor_and_launcher_hold_one_capability(processes: Processes) -> None:
    for pid in (processes.monitor, processes.launcher):
        found = capabilities(pid)
        assert found == {"CapInh": 0, "CapPrm": NET_ADMIN, "CapEff": NET_ADMIN, "CapAmb": 0}
        assert int(status(pid)["CapBnd"], 16) == 0


@LOOK
def test_supervisor_gate_and_client_hold_none(processes: Processes) -> None:
    for pid in (processes.supervisor, processes.gate, processes.client):
        assert set(capabilities(pid).values()) == {0}


@LOOK
def test_none_can_gain_privileges_or_be_traced(processes: Processes, way: Way) -> None:
    for pid in astuple(processes):
        assert status(pid)["NoNewPrivs"] == "1"
        assert status(pid)["Seccomp"] == ("0" if pid == processes.client else "2")
        # A process that is not dumpable belongs to root in /proc (proc(5)).
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0


@LOOK
def test_limits_leave_no_core_no_large_file_and_no_children_but_gates(
    processes: Processes,
) -> None:
    for pid in (processes.launcher, processes.monitor, processes.supervisor, processes.gate):
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        limits = {line[:25].strip(): line[26:46].strip() for line in lines}
        assert limits["Max core file size"] == "0"
        assert limits["Max file size"] == str(1 << 20)
        assert int(limits["Max open files"]) <= 4096
        if pid in (processes.launcher, processes.monitor):
            assert limits["Max processes"] == "0"


def test_descriptor_that_a_caller_left_open_goes_no_further_than_the_client(
    lab: Lab, overlay: Overlay
) -> None:
    left = lab.tmp / "left-open"
    words = overlay.up_command(overlay.serve())
    overlay.is_up = True
    lab.app.run(["sh", "-c", f'exec 9>{left}; exec "$@"', "sh", *words], env=overlay.sudo)
    found = instance(overlay.status()["pid"])
    assert str(left) in descriptors(found.client)
    for pid in (found.launcher, found.monitor, found.supervisor, found.gate):
        assert str(left) not in descriptors(pid)


@LOOK
def test_monitor_supervisor_and_gate_are_one_thread_and_no_user_with_files(
    processes: Processes, way: Way
) -> None:
    for pid in (processes.monitor, processes.supervisor, processes.gate):
        found = status(pid)
        assert found["Threads"] == "1"
        if way.lab.is_multi_user:
            assert set(found["Uid"].split()) == {"61100"}
            assert set(found["Gid"].split()) == {"61100"}
            assert found["Groups"] == ""


@LOOK
def test_client_is_the_user_who_ran_sudo(processes: Processes, way: Way) -> None:
    assert set(status(processes.client)["Uid"].split()) == {str(way.lab.alice.uid)}


@LOOK
def test_supervisor_and_gate_have_no_network(processes: Processes, way: Way) -> None:
    for pid in (processes.supervisor, processes.gate):
        own = os.stat(f"/proc/{pid}/ns/net").st_ino
        assert own not in {host.net for host in way.lab.hosts}
        devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]


DEVICES_AND_POOL = ["/dev/net/tun", "/dev/net/tun", "/memfd:overlay-vpn names (deleted)"]


def descriptors(pid: int) -> list[str]:
    """What a process has open beyond its standard streams."""
    return sorted(
        re.sub(r":?\[.*\]$", "", os.readlink(f"/proc/{pid}/fd/{name}"))
        for name in os.listdir(f"/proc/{pid}/fd")
        if int(name) > 2
    )


@LOOK
def test_gate_holds_the_descriptors_it_was_given_and_no_other(processes: Processes) -> None:
    # The listener and the two links to the client; epoll.
    assert descriptors(processes.gate) == [
        *DEVICES_AND_POOL,
        *("anon_inode", "socket", "socket", "socket"),
    ]


@LOOK
def test_supervisor_holds_what_the_gate_needs_and_its_link(processes: Processes) -> None:
    assert descriptors(processes.supervisor) == [
        *DEVICES_AND_POOL,
        *("anon_inode", "socket", "socket", "socket"),
    ]


@LOOK
def test_monitor_holds_no_device_and_nothing_of_the_gate(processes: Processes) -> None:
    assert "/dev/net/tun" not in descriptors(processes.monitor)
    assert not [kind for kind in descriptors(processes.monitor) if kind.startswith("/memfd")]


@LOOK
def test_monitor_has_two_files_open_and_no_directory(processes: Processes) -> None:
    def files(pid: int) -> list[str]:
        return [Path(kind).name for kind in descriptors(pid) if kind.startswith("/")]

    assert files(processes.monitor) == ["journal", "lock"]
    assert len(files(processes.launcher)) == 4  # the detector: and two directories


@LOOK
def test_heavy_libraries_are_in_the_client_only(processes: Processes) -> None:
    def mapped(pid: int) -> set[str]:
        maps = Path(f"/proc/{pid}/maps").read_text()
        return {name for name in HEAVY if f"/{name}" in maps}

    assert {"cryptography", "uvloop"} <= mapped(processes.client)
    for pid in (processes.launcher, processes.monitor, processes.supervisor, processes.gate):
        assert mapped(pid) == set()


def test_modules_of_the_monitor_are_its_own(lab: Lab) -> None:
    """Pure Python leaves no mapping: ask an interpreter that has imported what the monitor has."""

    def loaded(modules: str) -> set[str]:
        source = f"import sys, {modules}; print('\\n'.join(sys.modules))"
        return set(lab.app.python(source).stdout.split())

    monitor = loaded("shim.monitor.__main__")
    assert "pyroute2" in monitor
    assert not monitor & {*HEAVY, "vpn", "click", "rich", "dns", "dnslib"}
    foreign = ("shim.gate", "shim.protocol.gate", "shim.launcher", "shim.netlink.links")
    assert not {name for name in monitor if name.startswith(foreign)}
    gate = loaded("shim.gate.__main__")
    assert "dnslib" in gate
    assert not gate & {*HEAVY, "vpn", "click", "rich", "pyroute2"}


# S7: kill -9.


def traces(lab: Lab) -> list[str]:
    """What differs on the app from how the lab was built; programs of the test left out."""
    return state.diff(lab.before[lab.app], state.snapshot(lab.app))


def start(overlay: Overlay, endpoint: Endpoint) -> Processes:
    overlay.up(endpoint)
    return instance(overlay.status()["pid"])


@pytest.mark.parametrize("victim", ["client", "supervisor", "monitor", "launcher"])
def test_killed_while_up_leaves_the_network_as_it_was(
    lab: Lab, overlay: Overlay, victim: str
) -> None:
    endpoint = overlay.serve()
    took = _duration_of_up(overlay, endpoint)
    for _ in range(3):
        pids = start(overlay, endpoint)
        os.kill(getattr(pids, victim), signal.SIGKILL)
        until(
            lambda: is_over(lab, network_traces),
            gone_within_s(took),
            f"no trace after killing {victim}",
        )
        if victim != "launcher":
            until(lambda: not traces(lab), gone_within_s(took), "no file and no process")
    overlay.recover()
    overlay.recover()
    assert traces(lab) == []


def gone_within_s(took_s: float) -> float:
    """The two seconds of a machine that has nothing else to do, where `up` takes less than one."""
    share_of_a_core = (os.cpu_count() or 1) / max(os.getloadavg()[0], 0.1)
    return GONE_WITHIN_S * max(1.0, took_s, 2 / share_of_a_core)


def is_over(lab: Lab, left: Callable[[Lab], list[str]]) -> bool:
    """Whether nothing is left; who is still there is known without a look at everything."""
    return not lab.app.processes() and not left(lab)


def network_traces(lab: Lab) -> list[str]:
    return [line for line in traces(lab) if "/run/" not in line]


def processes_and_links(lab: Lab) -> list[str]:
    """What is left when the kill switch holds: rules, a filter, three files, but nobody."""
    return [line for line in traces(lab) if "process + " in line or "link + " in line]


@pytest.mark.fidelity("crash (kill -9) leaves nothing")
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("options", "left"),
    [((), traces), (("--kill-switch",), processes_and_links)],
    ids=["open", "kill switch"],
)
def test_killed_at_random_moments_leaves_nothing_and_starts_again(
    lab: Lab, overlay: Overlay, options: tuple[str, ...], left: Callable[[Lab], list[str]]
) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    endpoint = overlay.serve()
    dice = random.Random(7)
    took = _duration_of_up(overlay, endpoint, *options)
    for number in range(KILLS):
        # From before the monitor exists to well into the tear-down.
        delay_s = dice.uniform(0, took * 1.5)
        victim = dice.choice(["client", "supervisor", "monitor", "gate"])
        argv = [*overlay.up_command(endpoint, *options), "--foreground"]
        program = lab.app.popen(argv, env=overlay.sudo)
        time.sleep(delay_s)
        if number % 5 == 4 and program.is_alive:
            os.kill(program.pid, signal.SIGTERM)  # in the middle of going down
        pid = find(program.pid, victim)
        if pid is not None:
            kill([pid])
        if pid is None or victim == "gate":  # of which there would soon be another
            kill([program.pid])
        until(
            lambda: is_over(lab, left),
            gone_within_s(took),
            f"no trace of number {number}, {victim} after {delay_s:.3f} s",
        )
    overlay.up(endpoint, *options)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    overlay.down()
    until(lambda: not traces(lab), gone_within_s(took), "no trace after down")


def test_down_returns_when_the_devices_are_gone_and_not_before(lab: Lab, overlay: Overlay) -> None:
    """A device ends with the last process that holds it, and that may take its time."""
    pids = start(overlay, overlay.serve())
    os.kill(pids.supervisor, signal.SIGSTOP)
    down = lab.app.popen([PROGRAM, "down"], env=overlay.sudo)
    until(lambda: rules(lab) == 0, 10, "no rule")
    time.sleep(0.5)
    assert links(lab) == ["ovpn0"]
    assert down.is_alive
    os.kill(pids.supervisor, signal.SIGCONT)
    assert down.wait(10) == 0
    assert links(lab) == []
    assert traces(lab) == []


def rules(lab: Lab) -> int:
    return sum("rule + " in line for line in traces(lab))


def links(lab: Lab) -> list[str]:
    return [line.split(":")[2].strip() for line in traces(lab) if "link + " in line]


def _duration_of_up(overlay: Overlay, endpoint: Endpoint, *options: str) -> float:
    begin = time.monotonic()
    overlay.up(endpoint, *options)
    took = time.monotonic() - begin
    overlay.down()
    return took


def find(client: int, victim: str) -> int | None:
    """The process of an instance that may not be complete."""
    launcher = next((pid for pid in children(client) if runs(pid, "shim.launcher")), None)
    below = [] if launcher is None else children(launcher)
    monitor = next((pid for pid in below if runs(pid, "shim.monitor")), None)
    supervisor = next((pid for pid in below if runs(pid, "shim.gate")), None)
    gate = None if supervisor is None else next(iter(children(supervisor)), None)
    found = {
        "client": client,
        "launcher": launcher,
        "monitor": monitor,
        "supervisor": supervisor,
        "gate": gate,
    }
    return found[victim]
