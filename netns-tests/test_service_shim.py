"""The shim within all that its unit forbids, and a client of a user whom the policy names.

app: alice's client ── socket unit ── launcher ─┬─ monitor     in a network namespace of their own,
                                              └─ supervisor ─ gate       which is the flow namespace

Its network, its system calls, its address families, its user and its view of /proc are those of
the unit. The reverse path is checked strictly.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, Program, activation, kill, limits, services, state, tcp, until
from lab.activation import POLICY, SERVICE_UID
from lab.addresses import TARGET
from lab.overlay import PROGRAM, Endpoint, Overlay

UNIT = Path(__file__).parents[1] / "packaging/systemd/overlay-vpn-shim.service"
PROC = 'mount -t proc -o subset=pid,hidepid=invisible none /proc; exec "$@"'
IN_PROC = ("unshare", "--mount", "sh", "-euc", PROC, "sh")
NET_ADMIN = f"{1 << 12:016x}"
NONE = "0" * 16


@pytest.fixture
def shim(lab: Lab) -> Iterator[Program]:
    """The service; its policy names alice."""
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    policy = lab.app.path(POLICY)
    policy.parent.mkdir()
    activation.write_policy(lab, users=[lab.alice.name])
    yield activation.serve(lab, SERVICE_UID, wrapper=IN_PROC, limits=limits.command(UNIT))
    policy.unlink()
    policy.parent.rmdir()


@pytest.fixture
def endpoint(lab: Lab, overlay: Overlay) -> Endpoint:
    services.names(lab.target)
    services.web(lab, lab.target)
    return overlay.serve()


def up(lab: Lab, overlay: Overlay, endpoint: Endpoint, *options: str) -> Program:
    """Alice's client, without any help of root."""
    argv = overlay.up_command(endpoint, *options, "--foreground")
    client = lab.app.popen(argv, user=lab.alice)
    client.says("^connected$", timeout_s=30)
    return client


def launcher(shim: Program) -> int:
    return int(re.findall(r"^started (\d+)$", shim.stdout, re.MULTILINE)[-1])


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes(shim: Program) -> dict[str, int]:
    """What the service consists of."""
    first = launcher(shim)
    monitor, supervisor = children(first)
    return {
        "launcher": first,
        "monitor": monitor,
        "supervisor": supervisor,
        "gate": children(supervisor)[0],
    }


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_both_families_and_names_come_through(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, shim: Program
) -> None:
    before = state.snapshot(lab.app)
    client = up(lab, overlay, endpoint)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert tcp.outcome(lab.app, TARGET.v6, 80) == "connected"
    assert tcp.outcome(lab.app, TARGET.v4, 81) == "ECONNREFUSED"
    lab.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
    found = processes(shim)
    machine = os.readlink(f"/proc/{lab.app.pid}/ns/net")
    networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in found.values()}
    assert len(networks) == 1
    assert machine not in networks
    for name, pid in found.items():
        held = NET_ADMIN if name in ("launcher", "monitor") else NONE
        said = status(pid)
        assert {said["CapPrm"], said["CapEff"]} == {held}, name
        assert said["CapAmb"] == NONE
        assert said["Uid"].split() == [str(SERVICE_UID)] * 4
    nsenter = ["nsenter", "--net", "--target", str(found["launcher"])]
    links = lab.app.run([*nsenter, "ip", "-brief", "link"]).stdout
    assert [line.split()[0] for line in links.splitlines()] == ["lo", "flow0"]
    settings = "/proc/sys/net/ipv4/conf/all/rp_filter"
    assert lab.app.run([*nsenter, "cat", settings]).stdout == "1\n"  # it was strict all the time
    second = overlay.up(endpoint, check=False)
    assert "already up here" in second.stderr
    overlay.down()
    assert client.wait(15) == 0
    shim.says("^ended 0$")
    until(lambda: not state.diff(before, state.snapshot(lab.app)), 15, "nothing left")


def test_whatever_is_killed_leaves_nothing(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, shim: Program
) -> None:
    before = state.snapshot(lab.app)
    for victims in (
        ["monitor"],
        ["supervisor"],
        ["launcher"],
        ["launcher", "monitor", "supervisor", "gate"],
        ["client"],
    ):
        client = up(lab, overlay, endpoint)
        assert state.diff(before, state.snapshot(lab.app))  # the detector
        found = {**processes(shim), "client": client.pid}
        kill(found[victim] for victim in victims)
        until(lambda c=client: not c.is_alive, 20, "the end of the client")
        until(lambda: not state.diff(before, state.snapshot(lab.app)), 20, f"nothing of {victims}")


def test_switch_stays_closed_when_all_are_killed_and_another_start_holds_it(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, shim: Program
) -> None:
    before = state.snapshot(lab.app)
    client = up(lab, overlay, endpoint, "--kill-switch")
    kill(processes(shim).values())
    until(lambda: not client.is_alive, 20, "the end of the client")
    shim.says(r"(?s)started \d+.*ended -9.*started \d+")
    until(lambda: overlay.status()["state"] == "blocked", 15, "the switch without anybody")
    assert tcp.outcome(lab.app, TARGET.v4, 80) != "connected"
    client = up(lab, overlay, endpoint, "--kill-switch")
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    client.process.send_signal(signal.SIGKILL)
    shim.says(r"(?s)ended -9.*ended 0")
    assert tcp.outcome(lab.app, TARGET.v6, 80) != "connected"
    overlay.recover()
    until(lambda: not state.diff(before, state.snapshot(lab.app)), 20, "nothing left")


def test_stop_of_the_service_undoes_what_it_has_changed(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, shim: Program
) -> None:
    """All of it are told to end at once, as systemd does."""
    before = state.snapshot(lab.app)
    for number in range(4):
        client = up(lab, overlay, endpoint)
        if number:
            os.killpg(launcher(shim), signal.SIGTERM)
        else:  # as `down` does when the client does not answer
            (lock,) = lab.app.path("/run/overlay-vpn").glob("net-*/lock")
            os.kill(int(lock.read_text()), signal.SIGTERM)
        until(lambda c=client: not c.is_alive, 20, "the end of the client")
        until(lambda: not state.diff(before, state.snapshot(lab.app)), 20, "nothing left")
    assert not re.findall(r"ended [^0]", shim.stdout)
    assert lab.app.run([PROGRAM, "status"], user=lab.alice, check=False).stdout == "down\n"
