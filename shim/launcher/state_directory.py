"""The state directory of an instance: its lock, its journal and its control socket.

Theory of operation
-------------------
One directory per network namespace holds three files of fixed names: the lock, which says that an
instance runs; the journal (`shim.monitor.journal`); and the control socket of the client.

The directory belongs to root. The monitor, which is not root any more, has lock and journal open
and reaches no path. The lock is held by every process that may still undo.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from typing import Final

from shim.monitor.journal import Journal
from shim.protocol.paths import CONTROL, JOURNAL, LOCK, RUN_DIRECTORY, state_directory
from shim.sandbox import landlock

SYSCALLS_TO_REMOVE: Final = frozenset({"unlinkat", "rmdir"})

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BusyError(Exception):
    """Another instance runs in this network namespace."""


class State:
    """The state directory of a network namespace, locked."""

    def __init__(self, netns: int) -> None:
        """Make and lock the directory. `netns` is a descriptor. Raises BusyError, OSError."""
        self._path = state_directory(netns)
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        self._parent = os.open(RUN_DIRECTORY, _DIRECTORY_FLAGS)
        self.lock, self._directory = self._acquire()
        self.journal = Journal(self._open(JOURNAL, self._directory))

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
                    os.ftruncate(lock, 0)  # its former holder has ended
                    return lock, directory
            except BlockingIOError:
                raise BusyError(self._path) from None
            except FileNotFoundError:
                pass
            os.close(lock)
            os.close(directory)

    @staticmethod
    def _open(name: str, directory: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode=0o644, dir_fd=directory)

    @property
    def fds(self) -> set[int]:
        """The descriptors that a process needs in order to undo."""
        return {self._parent, self.lock, self._directory, self.journal.fileno()}

    @property
    def directories(self) -> dict[str, int]:
        """The rights that `remove` needs, below which directories (landlock(7))."""
        return {
            os.path.dirname(RUN_DIRECTORY): landlock.REMOVE_DIR,
            self._path: landlock.REMOVE_FILE,
        }

    def listen(self) -> socket.socket:
        """Return the listener of the control socket, for the client. Anyone may connect.

        The client decides by the credentials of its peer who may ask for what (unix(7)). The
        directory is reached by its descriptor, so that nobody can redirect the path.
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
        """Write into the lock the PID that stops the instance when it gets SIGTERM."""
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, b"%d\n" % pid, 0)

    def close(self) -> None:
        """Release the lock."""
        for fd in self.fds:
            os.close(fd)

    def remove(self) -> None:
        """Remove the directory, if that is permitted. The lock goes with this process."""
        with suppress(OSError):
            for name in (CONTROL, JOURNAL, LOCK):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)
            os.rmdir(os.path.basename(self._path), dir_fd=self._parent)
        # Other namespaces may have theirs in it.
        with suppress(OSError):
            os.rmdir(RUN_DIRECTORY)
