"""`run` between a terminal and a command: signals, jobs, pipes, and nothing left of many runs.

app: a real pseudo-terminal (pty(7)), on it a shell with job control, in it `run`
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lab import Lab, Program, until
from lab.host import PATH
from lab.overlay import PORT, PROGRAM
from lab.sweeper import MARK

pytestmark = pytest.mark.lab(direct=True, capture=False)

# Counts what it gets, and answers the lines that it reads.
COUNTER = """
import os, signal, sys
counts = {}
def say(*words):  # not print(): a handler may interrupt it, and it must not be entered twice
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def count(number, _):
    name = signal.Signals(number).name
    counts[name] = counts.get(name, 0) + 1
    size = os.get_terminal_size(0) if name == "SIGWINCH" else (0, 0)
    say(name, counts[name], *size)
for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "ALRM"):
    signal.signal(getattr(signal, "SIG" + name), count)
say("ready", os.getpid(), *map(os.isatty, range(3)))
for line in sys.stdin:
    say("heard", line.strip(), counts)
"""


class Terminal:
    """A terminal of the app on which a program of alice runs, in a session of its own."""

    def __init__(self, lab: Lab, argv: Sequence[str | Path], runtime: Path) -> None:
        self.main, other = os.openpty()
        self.said = ""
        alice = lab.alice
        enter = ["setsid", "--ctty", *lab.app.entering(alice)]
        env = {"PATH": PATH, "HOME": str(alice.home), "TERM": "dumb", MARK: lab.token}
        env |= {"PS1": "prompt> ", "XDG_RUNTIME_DIR": str(runtime), "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [*enter, *map(str, argv)], env=env, stdin=other, stdout=other, stderr=other
        )
        os.close(other)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self.main, 4096):
                self.said += data.decode(errors="replace")

    def type(self, text: str) -> None:
        """Press keys; what was said until now is forgotten."""
        self.said = ""
        os.write(self.main, text.encode())

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it says something that matches."""
        try:
            found = until(lambda: re.search(pattern, self.said), 30, pattern)
        except TimeoutError as error:
            raise AssertionError(f"{error}; it said {self.said!r}") from None
        assert found is not None
        return found

    def close(self) -> None:
        """Hang up, and wait for the end of the program."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        os.close(self.main)


@pytest.fixture
def runtime(lab: Lab) -> Path:
    path = lab.tmp / "runtime"
    path.mkdir(mode=0o700)
    os.chown(path, lab.alice.uid, lab.alice.gid)
    return path


@pytest.fixture
def shell(lab: Lab, runtime: Path) -> Iterator[Terminal]:
    """A shell with job control that has started the counter in `run`."""
    (lab.tmp / "counter.py").write_text(COUNTER)
    terminal = Terminal(lab, ["bash", "--norc", "--noprofile", "-i"], runtime)
    terminal.says("prompt> $")
    yield terminal
    terminal.close()


def start(lab: Lab, shell: Terminal) -> int:
    """Start the counter in the foreground of the shell, and return its process id."""
    command = f"{sys.executable} {lab.tmp}/counter.py"
    shell.type(f"{PROGRAM} run --embedded -- {command}; echo status=$?\n")
    said = shell.says(r"ready (\d+) (\w+) (\w+) (\w+)")
    assert said.groups()[1:] == ("True", "True", "True")
    return int(said[1])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_interrupt_key_reaches_the_command_once(lab: Lab, shell: Terminal) -> None:
    start(lab, shell)
    for count, (key, name) in enumerate([("\x03", "INT"), ("\x03", "INT"), ("\x1c", "QUIT")], 1):
        shell.type(key)
        shell.says(rf"SIG{name} {count if name == 'INT' else 1} ")
    shell.type("hello\n")
    shell.says(r"heard hello \{'SIGINT': 2, 'SIGQUIT': 1\}")
    shell.type("\x04")
    shell.says(r"status=0\r?\n")


def test_interrupt_key_ends_a_command_that_does_not_care(lab: Lab, shell: Terminal) -> None:
    shell.type(f"{PROGRAM} run --embedded -- sh -c 'echo in; exec sleep 100'; echo status=$?\n")
    shell.says(r"\nin\r?\n")
    shell.type("\x03")
    shell.says(r"status=130\r?\n")


def test_stop_key_stops_the_job_and_fg_resumes_it(lab: Lab, shell: Terminal) -> None:
    """In the background it stops as soon as it reads from the terminal."""
    pid = start(lab, shell)

    def is_stopped() -> bool:
        shell.type("jobs\n")
        shell.says("prompt> $")
        return "Stopped" in shell.said

    for is_background in (False, True):
        shell.type("\x1a")
        shell.says(r"Stopped.*run --embedded")
        until(lambda: {state(pid), state(parent(pid))} == {"T"}, 15, "both are stopped")
        if is_background:
            shell.type("bg\n")
            shell.says("prompt> $")
            until(is_stopped, 15, "a job that has read in the background")
        shell.type("fg\n")
        until(lambda: "T" not in {state(pid), state(parent(pid))}, 15, "both go on")
        shell.type("again\n")
        shell.says("heard again {}")
    shell.type("\x04")
    shell.says("prompt> $")


def test_command_that_is_stopped_by_a_signal_to_run_alone(lab: Lab, shell: Terminal) -> None:
    pid = start(lab, shell)
    os.kill(parent(pid), signal.SIGTSTP)
    shell.says(r"Stopped.*run --embedded")
    assert state(pid) == "T"
    shell.type("fg\n")
    until(lambda: state(pid) != "T", 15, "it goes on")
    shell.type("\x04")
    shell.says("prompt> $")


def test_window_size_reaches_the_command(lab: Lab, shell: Terminal) -> None:
    start(lab, shell)
    fcntl.ioctl(shell.main, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    shell.says("SIGWINCH 1 111 33")
    shell.type("\x04")
    shell.says(r"status=0\r?\n")


def test_hang_up_ends_the_command(lab: Lab, runtime: Path) -> None:
    argv = [PROGRAM, "run", "--embedded", "--", "sh", "-c", "echo in $$; exec sleep 100"]
    terminal = Terminal(lab, argv, runtime)
    pid = int(terminal.says(r"in (\d+)")[1])
    os.kill(terminal.process.pid, signal.SIGHUP)
    assert terminal.process.wait(30) == 128 + signal.SIGHUP
    until(lambda: not Path(f"/proc/{pid}").exists(), 15, "the end of the command")
    terminal.close()


def counter(lab: Lab, runtime: Path) -> Program:
    argv = [
        PROGRAM,
        "run",
        "--embedded",
        "--",
        sys.executable,
        "-c",
        COUNTER + "signal.pause()\n" * 9,
    ]
    program = lab.app.popen(argv, user=lab.alice, env={"XDG_RUNTIME_DIR": str(runtime)})
    program.says("^ready")
    return program


def test_signals_to_run_reach_the_command_once(lab: Lab, runtime: Path) -> None:
    program = counter(lab, runtime)
    for name in ("TERM", "HUP", "USR1", "USR2", "INT", "QUIT", "ALRM"):
        program.process.send_signal(getattr(signal, f"SIG{name}"))
        program.says(f"^SIG{name} 1 ")
    assert not re.search(r"SIG\w+ 2", program.stdout)


def test_pipes_end_as_without_us(lab: Lab, runtime: Path) -> None:
    ours = f"{PROGRAM} run --embedded --"
    script = f"yes | {ours} head -1; {ours} yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = lab.app.run(
        ["bash", "-c", script], user=lab.alice, env={"XDG_RUNTIME_DIR": str(runtime)}
    )
    assert (done.stdout, done.stderr) == ("y\ny\n141\n", "")


def test_interrupt_before_the_command_has_started(lab: Lab, runtime: Path) -> None:
    """While it connects to a server that does not answer."""
    key = lab.alice.home / "key"
    lab.app.run([PROGRAM, "keygen", key], user=lab.alice)
    options = ["--host-key", "SHA256:" + "A" * 43, "-i", key]
    argv = [PROGRAM, "run", f"alice@203.0.113.3:{PORT}", *options, "--", "touch", "ran"]
    terminal = Terminal(lab, argv, runtime)
    until(lambda: list(runtime.glob("*/*")), 30, "its entry in the registry")
    terminal.type("\x03")
    assert terminal.process.wait(30) == 130
    terminal.close()
    assert "Traceback" not in terminal.said
    until(lambda: not ours(lab) and not list(runtime.glob("*/*")), 15, "the end of everything")
    assert not (lab.alice.home / "ran").exists()


def ours(lab: Lab) -> dict[int, str]:
    """Return the processes of the app by id, in whatever namespace, marked or not.

    Each mount namespace that came from the app's shows the directory of the lab.
    """
    found = {}
    known = {lab.app.pid, *(program.pid for program in lab.app.programs)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in known:
            with suppress(OSError):
                if f"{lab.tmp}/app/" in (entry / "mountinfo").read_text():
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(entry.name)] = words
    return found


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("many", [16, pytest.param(50, marks=pytest.mark.soak)])
def test_many_runs_leave_nothing(lab: Lab, runtime: Path, many: int) -> None:
    """Eight at a time: no processes, hence no namespaces or mounts, and no files."""
    one = lab.app.popen(
        [PROGRAM, "run", "--embedded", "--", "sh", "-c", "echo in; exec sleep 100"],
        user=lab.alice,
        env={"XDG_RUNTIME_DIR": str(runtime)},
    )
    one.says("^in$")
    assert any("shim.namespace" in words for words in ours(lab).values())
    one.stop()
    home = sorted(lab.alice.home.rglob("*"))
    script = f"seq {many} | xargs -P 8 -I N {PROGRAM} run --embedded -- sh -c 'echo done N'"
    done = lab.app.run(
        ["sh", "-c", script],
        user=lab.alice,
        env={"XDG_RUNTIME_DIR": str(runtime)},
        timeout=200,
    )
    assert sorted(done.stdout.splitlines()) == sorted(f"done {n}" for n in range(1, many + 1))
    assert done.stderr == ""
    until(lambda: not ours(lab), 15, "the end of all processes")
    assert list(runtime.glob("*/*")) == []
    assert sorted(lab.alice.home.rglob("*")) == home
