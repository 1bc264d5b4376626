"""The launcher: what it makes, in which order, what it refuses, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shim import protocol
from shim.gate.process.flow_namespace import FlowNetwork
from shim.launcher import access, process
from shim.launcher.state_directory import BusyError
from shim.monitor.plan import EVERYTHING
from shim.netlink.changes import TABLE
from shim.protocol.common import Failed, Fault
from shim.protocol.gate_supervisor import Keep
from shim.protocol.launcher import Serve

CAPTURE, FLOW, ROUTE, NETFILTER, JOURNAL, LOCK = range(1001, 1007)
REFUSED = PermissionError(errno.EPERM, "no")


class Ended(BaseException):
    """The process has ended, with a status."""


class World:
    """All that the launcher uses, in one: it notes what is asked of it, and fails at `fails`."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.status = 0
        self.is_elsewhere = False
        self.has_kill_switch = False
        self.is_over = True
        self.is_kept = True
        self.client, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.settimeout(5)
        self.admitted: access.Admitted | None = access.Admitted(self.client, access.Policy())
        self.kept: Keep | None = None
        self.served: tuple[Serve, tuple[int, ...]] | None = None
        self.open: set[int] = set()
        # What only has to have a name.
        self.pid, self.gate, self.control = 4711, 21, 22
        self.netns, self.route, self.netfilter = 31, ROUTE, NETFILTER
        self.cookie, self.fds, self.directories = b"cookie", {ROUTE, NETFILTER}, {"/run": 1}
        self.lock = LOCK

    def note(self, what: str) -> None:
        self.log.append(what)
        if what in self.fails:
            raise self.fails[what]

    def fileno(self) -> int:
        return 41

    # The machine.

    def forget(self) -> None:
        self.note("forget")

    # The state and its journal.

    @property
    def journal(self) -> World:
        return self

    def undo(self, netlink: object) -> None:
        self.note("undo")

    def undo_after(self, status: int, netlink: object) -> bool:
        self.note(f"undo after {status}")
        return self.is_over

    def listen(self) -> socket.socket:
        self.note("listen")
        return self.peer

    def set_owner(self, pid: int) -> None:
        self.note(f"owner {pid}")

    def remove(self) -> None:
        self.note("remove")

    # Interfaces.

    def move(self, name: str, netns: int) -> None:
        self.note(f"move {name} {netns}")

    def prepare(self, name: str) -> None:
        self.note("prepare")

    def set_up(self, name: str, addresses: tuple[object, ...]) -> int:
        self.note(f"set up {name} {addresses[0]}")
        return 7

    def add_default(self, index: int, table: int, source: object) -> None:
        self.note(f"default {index} {table} {source}")

    # Supervisor and monitor.

    def keep(self, keep: Keep, *fds: int) -> bool:
        self.note(f"keep {fds}")
        self.kept = keep
        return self.is_kept

    def serve(self, serve: Serve, *fds: int) -> None:
        self.note("serve")
        self.served = serve, fds

    def close(self) -> None:
        """As the flow's listener, or as interfaces."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    one = World()

    def make_state(netns: int) -> World:
        one.note(f"state {netns}")
        return one

    def build(*, is_here: bool) -> FlowNetwork:
        one.note(f"flow namespace, {is_here}")
        return FlowNetwork(FLOW, one)  # type: ignore[arg-type]

    def create(name: str) -> int:
        one.note(f"device {name}")
        return CAPTURE

    def admit(link: object) -> access.Admitted | None:
        one.note("admit")
        return one.admitted

    def end(status: int) -> None:
        raise Ended(status)

    def undo(machine: object, *, keep_kill_switch: bool = False) -> int:
        one.note(f"undo what was left, {keep_kill_switch}")
        return 0

    def noted(what: str, result: object = None) -> object:
        return lambda *_: [one.note(what), result][1]

    replaced = {
        "State": make_state,
        "undo": undo,
        "Interfaces": lambda *_: one,
        "Netlink": lambda *_: one,
        "flow_namespace.build": build,
        "tun.create": create,
        "access.admit": admit,
        "children.end": noted("end children"),
        "linux.close_all_but": lambda kept: one.note(f"keep {sorted(kept)}"),
        "enter": noted("enter", ()),
        "signal.signal": noted("ignore SIGTERM"),
        "os._exit": end,
        "os.close": lambda fd: one.note(f"close {fd}"),
        "os.pidfd_open": noted("watch monitor", 51),
        "os.waitpid": lambda pid, _: [one.note(f"wait {pid}"), (pid, one.status << 8)][1],
        "_turn_away": noted("turn away"),
    }
    with monkeypatch.context() as patch:
        for name, value in replaced.items():
            patch.setattr(f"shim.launcher.process.{name}", value)
        patch.setattr(process, "_FIRST_QUESTION_S", 0.0)
        yield one
    one.client.close()
    one.peer.close()


def run(world: World, *, is_service: bool = False) -> int:
    """Be the launcher; returns the exit status, whichever way it ends."""
    it: tuple[World, ...] = (world,) * 3
    try:
        return process.main(world.client, *it, is_service=is_service)  # type: ignore[arg-type]
    except Ended as ended:
        return int(ended.args[0])


def refusal(world: World) -> Failed:
    world.client.close()
    return msgspec.msgpack.decode(world.peer.recv(64), type=Failed)


def test_client_is_served_by_the_monitor_with_what_was_made_and_nothing_is_left(
    world: World,
) -> None:
    assert run(world) == 0
    assert world.log == [
        "forget",
        "admit",
        "state 31",
        "undo",
        "flow namespace, False",
        "device ovpn0",
        f"keep ({CAPTURE}, {FLOW}, 41)",
        f"close {CAPTURE}",
        f"close {FLOW}",
        "prepare",
        f"set up ovpn0 {protocol.DEVICE4}",
        f"default 7 {TABLE} {protocol.DEVICE4}",
        f"set up ovpn0 {protocol.DEVICE6}",
        f"default 7 {TABLE} {protocol.DEVICE6}",
        "listen",
        "ignore SIGTERM",
        "serve",
        "owner 4711",
        "watch monitor",
        f"keep {[0, 1, 2, 41, 51, ROUTE, NETFILTER]}",
        "enter",
        "wait 4711",
        "forget",
        "undo after 0",
        "wait 4711",
        "remove",
    ]


def test_monitor_is_given_what_it_needs_and_the_filters_of_the_kill_switch(world: World) -> None:
    fds = [world.client.fileno(), 21, world.peer.fileno(), 41, LOCK, 41, ROUTE, NETFILTER]
    run(world)
    assert world.served is not None
    serve, given = world.served
    assert list(given) == fds
    assert (serve.families, serve.routes, serve.netns) == ((4, 6), EVERYTHING, b"cookie")
    strict, with_lan = serve.filters
    assert len(with_lan[0].lines) > len(strict[0].lines)
    assert world.kept == Keep(False)


def test_service_undoes_first_and_turns_others_away(world: World) -> None:
    others = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    world.admitted = access.Admitted(world.client, access.Policy(), others)
    with others:
        assert run(world, is_service=True) == 0
        assert f"keep {sorted([0, 1, 2, 41, 51, ROUTE, NETFILTER, others.fileno()])}" in world.log
    assert world.log[:3] == ["forget", "undo what was left, True", "admit"]
    assert world.log[world.log.index("enter") + 1] == "turn away"


def test_service_in_a_network_of_its_own_moves_the_device_to_the_machine(world: World) -> None:
    world.is_elsewhere = True
    assert run(world) == 0
    assert "flow namespace, True" in world.log
    assert "move ovpn0 31" in world.log
    assert world.kept == Keep(True)


def test_policy_that_cannot_be_followed_ends_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.fails["admit"] = access.PolicyError("cannot follow it")
    assert run(world) == 78
    assert world.log[-1] == "end children"
    assert capsys.readouterr().err == "overlay-vpn: cannot follow it\n"


def test_nobody_who_may_connects(world: World) -> None:
    world.admitted = None
    assert run(world) == 0
    assert world.log == ["forget", "admit", "end children"]


def test_instance_that_runs_already_is_not_disturbed(world: World) -> None:
    world.fails["state 31"] = BusyError("/run")
    assert run(world) == 0
    assert world.log == ["forget", "admit", "state 31", "end children"]
    assert refusal(world) == Failed(Fault.BUSY, 0)


@pytest.mark.parametrize(
    ("at", "error", "fault"),
    [
        ("state 31", REFUSED, Fault.NOT_PERMITTED),
        ("undo", OSError(errno.ENOBUFS, "full"), Fault.NETLINK),
        ("flow namespace, False", REFUSED, Fault.NOT_PERMITTED),
        ("flow namespace, False", OSError(errno.ENOSPC, "limit"), Fault.NO_NAMESPACE),
        ("device ovpn0", FileNotFoundError(errno.ENOENT, "none"), Fault.NO_TUN),
        ("prepare", OSError(errno.ENOBUFS, "full"), Fault.NETLINK),
        (f"set up ovpn0 {protocol.DEVICE4}", OSError(errno.EACCES, "off"), Fault.NETLINK),
        (f"set up ovpn0 {protocol.DEVICE6}", OSError(errno.ENOBUFS, "full"), Fault.NETLINK),
        ("listen", OSError(errno.EROFS, "read-only"), Fault.NETLINK),
    ],
)
def test_what_cannot_be_made_is_told_to_the_client(
    world: World, at: str, error: OSError, fault: Fault
) -> None:
    world.fails[at] = error
    assert run(world) == 0
    assert world.log[world.log.index(at) + 1 :][-1] == "end children"
    assert ("remove" in world.log) is (at != "state 31")
    assert refusal(world) == Failed(fault, error.errno or 0)


def test_supervisor_that_does_not_keep_the_devices_is_a_fault(world: World) -> None:
    world.is_kept = False
    assert run(world) == 0
    assert f"close {CAPTURE}" in world.log
    assert f"close {FLOW}" in world.log
    assert refusal(world) == Failed(Fault.GATE, 0)


def test_kill_switch_of_before_is_held_until_the_monitor_has_its_own(world: World) -> None:
    world.has_kill_switch = True
    assert run(world) == 0
    assert "undo" not in world.log


def test_kill_switch_of_before_stays_when_nothing_could_be_made(world: World) -> None:
    world.has_kill_switch = True
    world.fails["device ovpn0"] = REFUSED
    assert run(world) == 0
    assert "remove" not in world.log


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_device_without_ipv6_serves_ipv4(world: World, number: int) -> None:
    world.fails[f"set up ovpn0 {protocol.DEVICE6}"] = OSError(number, "off")
    assert run(world) == 0
    assert world.served is not None
    assert world.served[0].families == (4,)


def test_monitor_that_is_killed_leaves_the_kill_switch_in_place(world: World) -> None:
    world.status, world.is_over = 3, False
    assert run(world) == 0
    assert world.log[-2:] == ["undo after 3", "wait 4711"]


def test_rules_that_remain_are_told_to_the_user(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.fails["undo after 0"] = OSError(errno.ENOBUFS, "full")
    assert run(world) == 1
    assert world.log[-1] == "undo after 0"
    assert "overlay-vpn recover" in capsys.readouterr().err


def test_other_clients_are_told_busy_until_the_monitor_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "shim.sock")
    ended, end = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as others:
        others.bind(path)
        others.listen()
        others.setblocking(False)
        thread = threading.Thread(target=process._turn_away, args=(others, ended), daemon=True)
        thread.start()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as another:
                another.settimeout(10)
                another.connect(path)
                answer = msgspec.msgpack.decode(another.recv(64), type=Failed)
                assert answer == Failed(Fault.BUSY, 0)
                assert another.recv(64) == b""
        assert thread.is_alive()
        os.close(end)
        thread.join(10)
        assert not thread.is_alive()
    os.close(ended)


class Failing:
    """A listener that is always ready, and never accepts."""

    def __init__(self) -> None:
        self.calls = 0
        self._end, other = os.pipe()
        os.close(other)

    def fileno(self) -> int:
        return self._end

    def accept(self) -> None:
        self.calls += 1
        raise OSError(errno.EMFILE, "full")


def test_listener_that_fails_is_not_asked_again() -> None:
    others = Failing()
    ended, end = os.pipe()
    thread = threading.Thread(target=process._turn_away, args=(others, ended), daemon=True)
    thread.start()
    thread.join(0.05)
    os.close(end)
    thread.join(10)
    assert not thread.is_alive()
    assert others.calls == 1
    for fd in (ended, others.fileno()):
        os.close(fd)
