"""A simulated host: network, mount and UTS namespaces, and the programs that run in them.

The namespaces have no name anywhere; a sleeping *holder* process keeps them. Inside, a host has
its own /run and /var/lib (tmpfs) and its own /etc (overlay over the real one), so that it may
have its own resolv.conf, users and state. The process ids are those of the outside.
"""

from __future__ import annotations

import copy
import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypedDict, TypeVar, Unpack

from lab.addresses import Dual
from lab.sweeper import MARK, Member, members
from lab.wait import until

P = ParamSpec("P")
R = TypeVar("R")

CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x200, 0x20000, 0x40000000
"""unshare(2), setns(2); os.setns() is newer than our oldest Python."""

PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_libc = ctypes.CDLL(None, use_errno=True)

_UNSHARE = ("unshare", "--net", "--mount", "--uts", "--propagation", "private")
# $1 directory, $2 name, $3 "tun" where device nodes may be made; then commands to run first.
_SETUP = """
dir=$1 name=$2 tun=$3; shift 3
for command; do eval "$command"; done
hostname "$name"
mount -t tmpfs -o mode=755 lab-run /run
mkdir -p /run/lock /run/sshd
mount -t tmpfs -o mode=755 lab-lib /var/lib
mount -t tmpfs -o mode=755 lab-etc "$dir/over"
mkdir "$dir/over/upper" "$dir/over/work"
cp -R "$dir/etc/." "$dir/over/upper/"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/over/upper,workdir=$dir/over/work" lab-etc /etc
if [ "$tun" = tun ] && [ -e /dev/net/tun ]; then
    mknod -m 666 "$dir/over/tun" c 10 200
    mount --bind "$dir/over/tun" /dev/net/tun
fi
echo ready
exec sleep infinity >/dev/null 2>&1
"""


class CommandFailedError(AssertionError):
    """A program in the lab did not do what was asked; says what it printed."""


class User(NamedTuple):
    """An account that every host of the lab has. The home is shared by all hosts."""

    name: str
    uid: int
    gid: int
    home: Path


class Program:
    """A program started in a host; what it prints is kept in two files."""

    def __init__(self, process: subprocess.Popen[bytes], argv: Sequence[str], log: Path) -> None:
        self.process = process
        self.argv = argv
        self.log = log
        self.pid = process.pid

    def __str__(self) -> str:
        head = f"{' '.join(self.argv)}  [{self.log.name}: {self.process.poll()}]"
        return "\n".join([head, *self.stdout.splitlines()[-20:], *self.stderr.splitlines()[-20:]])

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self.log.with_suffix(".out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has printed to standard error so far."""
        return self.log.with_suffix(".err").read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait(self, timeout_s: float = 60.0) -> int:
        """Return the exit status. Raises CommandFailedError when it does not end; it is ended."""
        if not self._ends_within(timeout_s):
            self.stop()
            raise CommandFailedError(f"no end after {timeout_s} s: {self}")
        return self.process.wait()

    def _ends_within(self, timeout_s: float) -> bool:
        # Popen.wait() with a timeout looks only every 50 ms; the lab runs many short programs.
        if self.is_alive:
            end = os.pidfd_open(self.pid)
            try:
                return bool(select.select([end], [], [], timeout_s)[0])
            finally:
                os.close(end)
        return True

    def says(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """Wait until it prints something that matches. Raises CommandFailedError."""

        def look() -> re.Match[str] | None:
            has_ended = not self.is_alive
            match = re.search(pattern, f"{self.stdout}\n{self.stderr}", re.MULTILINE)
            if match is None and has_ended:
                raise CommandFailedError(f"ended without saying {pattern!r}: {self}")
            return match

        try:
            found = until(look, timeout_s, pattern)
        except TimeoutError as error:
            raise CommandFailedError(f"{error}: {self}") from None
        assert found is not None
        return found

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 3.0) -> int:
        """End it by a signal, by SIGKILL if it does not listen, and return the exit status."""
        if self.is_alive:
            self.process.send_signal(number)
        if not self._ends_within(timeout_s):
            self.process.kill()
        return self.process.wait()


class Start(TypedDict, total=False):
    """How `popen` starts a program."""

    user: User | None
    env: Mapping[str, str] | None
    stdin: str | None


class Host:
    """One host of a lab. Its address is the one by which the others know it."""

    def __init__(
        self, name: str, address: Dual, tmp: Path, token: str, numbers: Iterator[int]
    ) -> None:
        self.name = name
        self.address = address
        self.tmp = tmp / name
        self.programs: list[Program] = []
        self._token = token
        self._numbers = numbers
        self._logs = tmp / "logs"
        self._root = User("root", 0, 0, tmp / "home" / "root")

    def start(self, etc: Mapping[str, str], before: Sequence[str], has_devices: bool) -> None:
        """Create the namespaces. `etc` are files of its own /etc; call `ready()` afterwards."""
        for path, text in etc.items():
            (self.tmp / "etc" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.tmp / "etc" / path).write_text(text)
        (self.tmp / "over").mkdir(parents=True)
        tun = "tun" if has_devices else "no"
        self._holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-euc", _SETUP, "holder", str(self.tmp), self.name, tun, *before],
            env={"PATH": PATH, MARK: self._token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._holder.pid

    def ready(self) -> None:
        """Wait until the namespaces are usable. Raises CommandFailedError."""
        assert self._holder.stdout is not None
        with self._holder.stdout as pipe:
            said = pipe.readline()
            if said != b"ready\n":
                raise CommandFailedError(f"no host {self.name}: {(said + pipe.read()).decode()}")
        self.net, self.mnt = (os.readlink(f"/proc/{self.pid}/ns/{kind}") for kind in ("net", "mnt"))

    def inside(self, pid: int) -> Host:
        """Return this host as a process of it sees it that has namespaces of its own."""
        view = copy.copy(self)
        view.pid = pid
        view.net, view.mnt = (os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt"))
        return view

    def path(self, inside: str) -> Path:
        """Return a path by which the outside reaches an absolute path of this host."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def entering(self, account: User) -> list[str]:
        """Return the words before a program that make it one of this host and of a user."""
        words = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--uts"]
        # Whoever starts the tests in the background may have them ignore the interrupt key.
        words += ["env", "--default-signal=INT", "-C", str(account.home)]
        if account.uid != 0:
            words += ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}"]
            words += ["--clear-groups"]
        return words

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        user: User | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> Program:
        """Start a program; it is ended with the lab at the latest.

        The environment is a clean one plus `env`; the working directory is the user's home.
        """
        account = user or self._root
        words = [str(word) for word in argv]
        enter = self.entering(account)
        log = self._logs / f"{next(self._numbers):03d}-{self.name}-{Path(words[0]).stem}"
        source = Path(os.devnull) if stdin is None else log.with_suffix(".in")
        if stdin is not None:
            source.write_text(stdin)
        with (
            source.open("rb") as reading,
            log.with_suffix(".out").open("wb") as out,
            log.with_suffix(".err").open("wb") as err,
        ):
            process = subprocess.Popen(
                enter + words,
                env={"PATH": PATH, "HOME": str(account.home), "USER": account.name}
                | {"LOGNAME": account.name, "LC_ALL": "C.UTF-8", MARK: self._token}
                | {"XDG_RUNTIME_DIR": str(account.home)}  # /tmp is of all labs
                | dict(env or {}),
                stdin=reading,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        program = Program(process, words, log)
        self.programs.append(program)
        return program

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = 60.0,
        **start: Unpack[Start],
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises CommandFailedError (no end; with `check`, not 0).

        Returns when the program itself ends, also if a daemon of it keeps its output open.
        """
        program = self.popen(argv, **start)
        status = program.wait(timeout)
        if check and status != 0:
            raise CommandFailedError(f"exit status {status}: {program}")
        self.programs.remove(program)
        return subprocess.CompletedProcess(program.argv, status, program.stdout, program.stderr)

    def python(
        self, source: str, *args: str, user: User | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source with `args` in sys.argv[1:] as a process of this host."""
        return self.run([sys.executable, "-c", source, *args], user=user, check=check)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function of the test in a thread that has entered this host.

        Sockets it opens belong to this host for good and may be used anywhere afterwards.
        glibc's resolver may remember the outside: names are for `run` and `python`.
        """
        future: Future[R] = Future()

        def work() -> None:
            try:
                self._enter()
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=work, name=f"in-{self.name}", daemon=True)
        thread.start()
        return future.result()

    def _enter(self) -> None:
        # A mount namespace can only be entered by a thread that shares its root with no other.
        _check(_libc.unshare(CLONE_FS))
        for kind, flag in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS)):
            with open(f"/proc/{self.pid}/ns/{kind}") as space:
                _check(_libc.setns(space.fileno(), flag))

    def processes(self) -> list[Member]:
        """Return what runs here and was not started by `popen` and `run` themselves."""
        known = {self.pid} | {one.pid for one in self.programs if one.is_alive}
        return [
            one
            for one in members(self._token)
            if one.pid not in known and (one.net == self.net or one.mnt == self.mnt)
        ]

    def stop_programs(self) -> None:
        """End what `popen` has started, the last first."""
        for program in reversed(self.programs):
            program.stop()

    def reap(self) -> None:
        """Collect the holder after the sweeper has ended it."""
        self._holder.kill()
        self._holder.wait()


def kill(pids: Iterable[int]) -> None:
    """Kill processes at once; when one is killed, another may have ended of it."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
