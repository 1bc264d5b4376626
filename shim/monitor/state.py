"""What the monitor leaves in the file system, and how every change is undone.

Theory of operation
-------------------
One directory per network namespace holds three files of fixed names: the lock, which says that an
instance runs; the journal; and the control socket of the client. A change of the network is
written to the journal before it is made; undoing is deleting, last change first, and deleting what
is not there is no error. So undoing works after any crash, at any moment, any number of times.

The journal is a line of JSON per change. A last line that is torn is one that was never made.
Devices, addresses, routes and the flow namespace need no journal: the kernel takes them down with
the last descriptor.

With the kill switch the changes outlive the instance: only `down` and `recover` undo them. The
next instance holds them until its own are in place, so the switch has no gap.

The directory belongs to root and stays root's. The monitor, which is not root any more, holds the
journal open and reaches no path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from shim.monitor.netlink import Netlink
from shim.monitor.plan import Change, Guard
from shim.protocol import CONTROL, JOURNAL, LOCK, RUN_DIRECTORY, state_directory
from shim.sandbox import landlock

SYSCALLS_TO_RECORD: Final = frozenset({"lseek", "pwrite64"})
SYSCALLS_TO_UNDO: Final = frozenset({"ftruncate", "pread64"})
SYSCALLS_TO_REMOVE: Final = frozenset({"unlinkat", "rmdir"})

_MAX_JOURNAL_BYTES: Final = 1 << 20
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BusyError(Exception):
    """Another instance runs in this network namespace."""


class State:
    """The state directory of this network namespace, locked."""

    def __init__(self) -> None:
        """Make and lock the directory. Raises BusyError, OSError."""
        self._path = state_directory()
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        self._parent = os.open(RUN_DIRECTORY, _DIRECTORY_FLAGS)
        self._lock, self._directory = self._acquire()
        self._journal = self._open(JOURNAL, self._directory)
        self.held = self.recorded()
        """What an earlier instance has left."""

    def _acquire(self) -> tuple[int, int]:
        name = os.path.basename(self._path)
        while True:
            with suppress(FileExistsError):
                os.mkdir(name, mode=0o755, dir_fd=self._parent)
            try:
                directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=self._parent)
                lock = self._open(LOCK, directory)
            except FileNotFoundError:
                continue  # its former owner has just removed it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(LOCK, dir_fd=directory)):
                    return lock, directory
            except BlockingIOError:
                raise BusyError(self._path) from None
            except FileNotFoundError:
                pass
            os.close(lock)
            os.close(directory)

    @staticmethod
    def _open(name: str, directory: int, flags: int = 0) -> int:
        flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode=0o644, dir_fd=directory)

    @property
    def fds(self) -> set[int]:
        """The descriptors that a process needs in order to undo."""
        return {self._parent, self._lock, self._directory, self._journal}

    @property
    def directories(self) -> dict[str, int]:
        """The rights that `remove` needs, below which directories (landlock(7))."""
        return {
            os.path.dirname(RUN_DIRECTORY): landlock.REMOVE_DIR,
            self._path: landlock.REMOVE_FILE,
        }

    def listen(self) -> socket.socket:
        """Return the listener on which the client answers the command line; anyone may connect.

        Who may ask for what is decided by the client, by the credentials of its peer (unix(7)).
        The directory is reached by its descriptor: whoever owned it before can redirect nothing.
        """
        path = f"/proc/self/fd/{self._directory}/{CONTROL}"
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o111)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(16)
        return listener

    def set_owner(self, pid: int) -> None:
        """Say in the lock which process undoes everything when it is told to end."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % pid, 0)

    @property
    def is_guarded(self) -> bool:
        """Whether the kill switch is on: then only a user undoes what is recorded."""
        return any(isinstance(change, Guard) for change in self.recorded())

    def make(self, netlink: Netlink, plan: Iterable[Change]) -> None:
        """Make the changes of a plan, and undo those of an earlier one. Raises OSError.

        Then nothing has changed.
        """
        made: list[Change] = []
        try:
            for change in plan:
                self._record(change)
                made.append(change)
                self._make(netlink, change)
        except OSError:
            self._revert(netlink, [change for change in made if change not in self.held])
            self._rewrite(self.held)
            raise
        self._revert(netlink, [change for change in self.held if change not in made])
        self._rewrite(made)
        self.held = made

    def _make(self, netlink: Netlink, change: Change) -> None:
        try:
            netlink.make(change)
        except FileExistsError:
            if change not in self.held:
                raise

    def _record(self, change: Change) -> None:
        line = _line(change)
        end = os.lseek(self._journal, 0, os.SEEK_END)
        if os.pwrite(self._journal, line, end) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rewrite(self, changes: Iterable[Change]) -> None:
        # Killed in between, what follows the new lines is undone a second time.
        text = b"".join(map(_line, changes))
        os.ftruncate(self._journal, os.pwrite(self._journal, text, 0))

    def recorded(self) -> list[Change]:
        """Return the changes that may have been made, oldest first."""
        lines = os.pread(self._journal, _MAX_JOURNAL_BYTES, 0).split(b"\n")[:-1]
        changes: list[Change] = []
        for line in lines:
            with suppress(msgspec.MsgspecError):
                changes.append(msgspec.json.decode(line, type=Change))
        return changes

    def undo(self, netlink: Netlink) -> None:
        """Undo every recorded change. Raises OSError if the kernel refuses one."""
        self._revert(netlink, self.recorded())
        os.ftruncate(self._journal, 0)
        self.held = []

    @staticmethod
    def _revert(netlink: Netlink, changes: list[Change]) -> None:
        for change in reversed(changes):
            netlink.revert(change)

    def remove(self) -> None:
        """Remove the directory, if we may. The lock goes with this process."""
        with suppress(OSError):
            for name in (CONTROL, JOURNAL, LOCK):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)
            os.rmdir(os.path.basename(self._path), dir_fd=self._parent)
        # Other namespaces may have theirs in it.
        with suppress(OSError):
            os.rmdir(RUN_DIRECTORY)


def _line(change: Change) -> bytes:
    # On a line of its own, also after one that is torn.
    return b"\n" + msgspec.json.encode(change) + b"\n"
