"""What is left of a process that has passed all stages, seen from inside and from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRELUDE = """
import ctypes, errno, os, socket, sys, threading, resource
from shim.protocol.common import Missing
from shim.sandbox import filters, landlock, seccomp, stages
from shim.sandbox.stages import Profile

def enter(profile):
    return stages.enter(profile, seccomp.assemble(profile.syscalls))

def say(*words):
    print(*words, flush=True)

def tried(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        say(attempt.__name__, errno.errorcode[error.errno])
    else:
        say(attempt.__name__, "done")
"""


def child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, which ends without finalisation as ours do."""
    source = f"{PRELUDE}\n{code}\nos._exit(0)"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def said(code: str) -> list[str]:
    done = child(code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_confined_process_has_no_privilege_left() -> None:
    status = said("""
status = open("/proc/self/status")
say(*enter(Profile(frozenset({"pread64"}))))
print(os.pread(status.fileno(), 65536, 0).decode(), flush=True)
""")
    found = dict(line.split(":", 1) for line in status if ":" in line)
    assert status[0] == ""  # nothing is missing on the machines that run the tests
    nothing = "0" * 16
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert found[name].strip() == nothing
    assert found["NoNewPrivs"].strip() == "1"
    assert found["Seccomp"].strip() == "2"
    if os.geteuid() == 0:
        assert found["CapBnd"].strip() == nothing


def test_limits_leave_no_core_no_children_and_no_large_file() -> None:
    assert said("""
limits = open("/proc/self/limits")
enter(Profile(frozenset({"pread64"})))
for line in os.pread(limits.fileno(), 65536, 0).decode().splitlines():
    if line.startswith(("Max core", "Max processes", "Max file size")):
        say(*line.split()[-3:-1])
""") == ["1048576 1048576", "0 0", "0 0"]


def test_second_thread_is_noticed() -> None:
    done = child("""
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    enter(Profile(frozenset()))
except stages.NotConfinedError as error:
    say(error)
""")
    assert done.stdout == "Threads is 2, not 1\n"


def test_kernel_without_features_is_told_of_and_the_rest_holds() -> None:
    assert said("""
def absent(number, *arguments):
    raise OSError(errno.ENOSYS, "not here")

landlock._call = absent
filters._has_filters = lambda: False
say(*enter(Profile(frozenset())))
tried(os.setgroups, [])
""") == ["landlock seccomp", "setgroups EPERM"]


def test_machine_without_numbers_is_told_of() -> None:
    assert said("""
seccomp._MACHINE = "vax"
say(*enter(Profile(frozenset())))
""") == ["seccomp"]


def test_landlock_leaves_what_is_open_and_one_right(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    assert said(f"""
import prctl, signal
prctl.set_no_new_privs(1)
directory = os.open({str(tmp_path)!r}, os.O_RDONLY)
kept = os.open("old", os.O_RDWR, dir_fd=directory)
tried(os.stat, {str(tmp_path)!r})
tried(os.listdir, {str(tmp_path)!r})
assert landlock.restrict({{{str(tmp_path)!r}: landlock.REMOVE_FILE}})
os.write(kept, b"still")
os.ftruncate(kept, 0)
tried(os.listdir, {str(tmp_path)!r})
tried(os.open, {str(tmp_path / "old")!r}, os.O_RDONLY)
tried(os.mkdir, {str(tmp_path / "new")!r})
tried(os.unlink, {str(tmp_path / "old")!r})
tried(os.unlink, "/dev/null")
tried(os.execv, "/bin/true", ["true"])
tried(os.kill, os.getppid(), 0)
""") == [
        "stat done",
        "listdir done",
        "listdir EACCES",
        "open EACCES",
        "mkdir EACCES",
        "unlink done",
        "unlink EACCES",
        "execv EACCES",
        "kill EPERM",
    ]


def test_error_under_the_filter_is_one_line() -> None:
    done = child("""
import prctl
from shim.gate.process import gate, supervisor
from shim.protocol.gate import GATE
from shim.protocol.link import Link
prctl.set_no_new_privs(1)
ours, theirs = socket.socketpair()
gate.run(theirs.fileno(), -1, socket.socket(), Link(ours, GATE), supervisor.new_pool(), 1)
""")
    assert done.returncode == 1
    assert done.stderr.startswith("overlay-vpn gate: ")
    assert done.stderr.count("\n") == 1


def test_uncaught_error_under_the_filter_shows_itself_without_a_source() -> None:
    """The interpreter looks for the source of what it shows; that fails, and is not the end."""
    done = child("""
enter(Profile(frozenset()))
try:
    1 / 0
except ZeroDivisionError:
    sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
""")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
