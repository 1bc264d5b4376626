"""The parent of the command of `run`: transparent to its signals, job control and exit status.

Theory of operation
-------------------
The command is a child in the same session and process group, so the kernel brings it Ctrl-C, Ctrl-Z
and changes of the window size. The rest is done here:

- a signal that a process has sent to this one alone is passed on; one from the terminal has
  reached the command already;
- when the command stops, this process stops, so that the shell sees a stopped job; when it is
  continued, so is the command;
- if this process is killed, the kernel kills the command (prctl(2), PR_SET_PDEATHSIG);
- its exit status is returned: 128 + n by signal, 126 if it cannot be executed, 127 if it is not
  found.

Signals are blocked and taken one by one with sigwaitinfo(2); there are no handlers.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from typing import Final, NoReturn

import prctl

from vpn.console import say
from vpn.errors import Exit
from vpn.linux import privileges
from vpn.linux.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, enter

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_BY_SIGNAL: Final = 128

_PASSED_ON: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGTSTP,
        signal.SIGCONT,
    }
)
_WAITED_FOR: Final = _PASSED_ON | {signal.SIGCHLD}
_FROM_A_PROCESS: Final = frozenset({0, -1, -6})
"""`si_code` of kill(2), sigqueue(3) and tgkill(2); the terminal's signals come from the kernel."""


def run(
    argv: tuple[str, ...],
    spaces: tuple[int, int, int],
    extra: Mapping[str, str],
    search: tuple[str, ...] = (),
) -> int:
    """Run a command in a user, mount and network namespace, and return its exit status.

    `extra` is added to its environment, and `search` to the resolv.conf(5) of the namespace.
    Raises OSError if there can be no process.
    """
    directory = os.getcwd()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _enter(spaces, directory, parent)
            _add_search(search)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _execute(argv, extra)
        except OSError as error:
            _fail(f"cannot enter the command's namespace: {error}", Exit.OURS)
    for space in spaces:
        os.close(space)
    try:
        return _wait(child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _enter(spaces: tuple[int, int, int], directory: str, parent: int) -> None:
    for space, kind in zip(spaces, (CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET), strict=True):
        enter(space, kind)
    os.chdir(directory)
    # The capabilities that a user namespace gives would let the command undo what confines it.
    privileges.drop_bounding_set()
    privileges.drop_capabilities()
    prctl.set_no_new_privs(1)
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "our parent has died")


def _add_search(domains: tuple[str, ...]) -> None:
    """Add search domains to resolv.conf(5), which the mount namespace has for itself."""
    if domains:
        with open("/etc/resolv.conf", "a") as file:
            file.write(f"search {' '.join(domains)}\n")


def _execute(argv: tuple[str, ...], extra: Mapping[str, str]) -> NoReturn:
    # Python ignores these; a command expects them as they were.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], list(argv), os.environ | extra)
    except (FileNotFoundError, NotADirectoryError) as error:
        _fail(f"cannot find {argv[0]}: {error.strerror}", NOT_FOUND)
    except OSError as error:
        _fail(f"cannot execute {argv[0]}: {error.strerror}", NOT_EXECUTABLE)


def _fail(line: str, status: int) -> NoReturn:
    say(line)
    os._exit(status)


def _wait(child: int) -> int:
    while True:
        told = signal.sigwaitinfo(_WAITED_FOR)
        if told.si_signo == signal.SIGCHLD:
            pid, state = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                continue
            if os.WIFSTOPPED(state):
                # SIGCONT reaches the command, too: from the terminal, or passed on.
                os.kill(os.getpid(), signal.SIGSTOP)
            elif os.WIFSIGNALED(state):
                return _BY_SIGNAL + os.WTERMSIG(state)
            else:
                return os.WEXITSTATUS(state)
        elif told.si_signo in _PASSED_ON and told.si_code in _FROM_A_PROCESS:
            os.kill(child, told.si_signo)
