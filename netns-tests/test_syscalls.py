"""S5: what the processes of the shim really call, traced, against what the code beside it declares.

    strace ─ overlay-vpn up ─ client ─ launcher ─┬─ monitor
                              │                └─ supervisor ─ gate
                              └─ resolved
    strace ─ overlay-vpn run ─ client ─ namespace ─ supervisor ─ gate

Nothing is called that is not declared, or the process would be ended; and, as far as a scenario can
show it, nothing is declared that is not called.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from lab import Lab, bus, services, tcp, until
from lab.overlay import PROGRAM, Overlay

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/shim/sandbox"))

from roles import DECLARED, ROLES

SOMETIMES = frozenset(
    {
        "clock_gettime",  # where the clock is no memory (vdso(7))
        "futex",
        "getpeername",  # a socket that was left open, in a warning
        "mremap",
        "munmap",  # memory comes and goes as it likes
        "restart_syscall",
        "rt_sigreturn",  # stopped, or signalled
        "write",  # a last line on stderr
    }
)
# pyroute2 is written with asyncio, which asks before Python 3.12; later only a line in a log does.
BY_LOGS = frozenset({"getpid"} if sys.version_info >= (3, 12) else ())
ONLY_WHEN = {
    "gate": frozenset({"setsockopt"}),  # a reset, of a connection that nobody asked for
    # It passes them on; and fork(3) of glibc from 2.41.
    "supervisor": ROLES["gate"] | {"rt_sigprocmask"},
    "monitor": frozenset({"pread64"}) | BY_LOGS,  # the launcher was killed, and it undoes
    # A service, and a second client is turned away.
    "launcher": frozenset({"poll", "accept4", "getsockname"}) | BY_LOGS,
    "namespace": frozenset({"sendto"}),  # a message without a descriptor, as links have them
}
ANSWERED = frozenset({"clone3", "fstat", "newfstatat", "openat"})
"""What fails and does no harm."""


CLONE = re.compile(r"(v?fork|clone3?)\(")
CLONED = re.compile(r"(?:<\.\.\. )?(?:v?fork|clone3?)[ (].* = (\d+)$")
RUNS = re.compile(r'execve\(.*"-m", "(shim\.\w+)"')
FILTER = re.compile(
    r"SECCOMP_MODE_FILTER, (\{|0x)"
)  # and not NULL, which asks whether there are any
FIRST = {
    "shim.launcher": "launcher",
    "shim.monitor": "monitor",
    "shim.gate": "supervisor",
    "shim.namespace": "namespace",
    "shim.resolved": "resolved",
}
SECOND = {"shim.namespace": "supervisor"}
"""Who a process is when it installs a filter: the one that was run, or a fork of it."""


class Trace:
    """What strace(1) has seen of each process while it was under a filter."""

    def __init__(self, path: Path) -> None:
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.killed: list[str] = []
        self.has_landlock: set[str] = set()
        """Who is under Landlock, by process id."""
        lines = [line.split(maxsplit=1) for line in path.read_text(errors="replace").splitlines()]
        children = self._children(lines)
        modules: dict[str, str] = {}
        forks_of: dict[str, str] = {}
        roles: dict[str, str] = {}
        for number, (pid, what) in enumerate(lines):
            name = re.match(r"(\w+)\(", what)
            if re.match(r"(<\.\.\. )?landlock_restrict_self\b.* = 0$", what):  # maybe resumed
                self.has_landlock.add(pid)
            if name and pid in roles:
                self.calls[roles[pid]].add(name[1])
            if number in children:
                child = children[number]
                if pid in roles:
                    roles[child] = roles[pid]
                forks_of[child] = modules.get(pid, "")
            if ran := RUNS.match(what):
                modules[pid] = ran[1]
            if FILTER.search(what):
                if pid in roles:
                    roles[pid] = "gate"
                else:
                    of = modules.get(pid)
                    roles[pid] = FIRST[of] if of else SECOND[forks_of[pid]]
            if "killed by SIGSYS" in what:
                self.killed.append(roles.get(pid, "?"))

    @staticmethod
    def _children(lines: list[list[str]]) -> dict[int, str]:
        """The child that each fork has made, by the number of the line in which it begins."""
        begun: dict[str, int] = {}
        made: dict[int, str] = {}
        for number, (pid, what) in enumerate(lines):
            if CLONE.match(what):
                begun[pid] = number
            if done := CLONED.match(what):
                made[begun[pid]] = done[1]
        return made

    def unused(self) -> dict[str, set[str]]:
        """What is declared, is not called, and has no reason to be there."""
        return {
            role: DECLARED[role] - called - SOMETIMES - ONLY_WHEN.get(role, frozenset())
            for role, called in self.calls.items()
        }

    def undeclared(self) -> dict[str, set[str]]:
        """What is called and not declared."""
        return {role: called - ROLES[role] - ANSWERED for role, called in self.calls.items()}


def nothing(roles: str) -> dict[str, set[str]]:
    return {role: set() for role in roles.split()}


def strace(path: Path) -> tuple[str, ...]:
    return ("strace", "-f", "-qq", "-e", "signal=none", "-o", str(path))


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gate_of(client: int) -> int | None:
    """The gate is the only process that far below a client."""
    below = [three for one in children(client) for two in children(one) for three in children(two)]
    return below[0] if below else None


@pytest.mark.timeout(180)
def test_up_calls_what_is_declared(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    bus.start(lab.app)
    bus.Service(lab.app, bus.RESOLVED)
    trace = lab.tmp / "trace"
    overlay.is_up = True
    argv = [*strace(trace), *overlay.up_command(overlay.serve(), "--foreground", "--kill-switch")]
    program = lab.app.popen(argv, env=overlay.sudo)
    program.says("^connected$", timeout_s=60)
    client = overlay.status()["pid"]
    lab.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
    lab.app.run(["dig", "+tcp", "www.example.com"])
    first = gate_of(client)
    assert first
    os.kill(first, signal.SIGKILL)
    until(lambda: gate_of(client) not in (None, first), 10, "the next gate")
    overlay.down()
    until(lambda: not program.is_alive, 20, "the end of the trace")
    bus.stop(lab.app)
    seen = Trace(trace)
    assert seen.killed == []
    assert str(client) in seen.has_landlock
    assert seen.undeclared() == nothing("launcher monitor supervisor gate resolved")
    assert seen.unused() == nothing("launcher monitor supervisor gate resolved")


ECHO_ONCE = """
import socket
with socket.create_server(("127.0.0.1", 8080)) as listener:
    print("ready", flush=True)
    one, _ = listener.accept()
    one.sendall(one.recv(64))
"""


@pytest.mark.lab(direct=True)
@pytest.mark.timeout(180)
def test_run_calls_what_is_declared(lab: Lab) -> None:
    trace = lab.alice.home / "trace"
    run = (PROGRAM, "run", "--embedded", "--publish", "18080:8080", "--")
    command = (sys.executable, "-c", ECHO_ONCE)
    program = lab.app.popen([*strace(trace), *run, *command], user=lab.alice)
    program.says("^ready$", timeout_s=60)
    with tcp.connect(lab.app, "127.0.0.1", 18080) as stream:
        stream.sendall(b"published")
        assert stream.recv(64) == b"published"
    until(lambda: not program.is_alive, 20, "the end of the trace")
    seen = Trace(trace)
    assert seen.killed == []
    assert seen.undeclared() == nothing("namespace supervisor gate")
    assert seen.unused()["namespace"] == set()


def test_call_that_is_not_declared_is_seen(tmp_path: Path) -> None:
    """The detector: what the tests above look for, in a trace that has it."""
    trace = tmp_path / "trace"
    trace.write_text(
        """\
1 execve("python", ["python", "-I", "-B", "-m", "shim.launcher"], 0x0 /* 2 vars */) = 0
1 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>
2 execve("python", ["python", "-I", "-B", "-m", "shim.monitor"], 0x0 /* 2 vars */) = 0
2 prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, {len=69, filter=0x0}) = 0
2 poll([], 0, 0) = 0
1 <... clone resumed>, child_tidptr=0x0) = 2
2 execve("/bin/true", ["true"], 0x0 /* 2 vars */ <unfinished ...>
2 +++ killed by SIGSYS +++
"""
    )
    seen = Trace(trace)
    assert seen.killed == ["monitor"]
    assert seen.undeclared() == {"monitor": {"execve"}}
    assert "sendto" in seen.unused()["monitor"]
