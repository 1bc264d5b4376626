"""What the monitor leaves in the file system, and how every change is undone.

Theory of operation
-------------------
One directory per network namespace holds three files of fixed names: the lock, which says that an
instance runs; the journal; and the control socket of the client. A change of the network is
written to the journal before it is made; undoing is deleting, last change first, and deleting what
is not there is no error. So undoing works after any crash, at any moment, any number of times.

The journal is a line of JSON per rule. A last line that is torn is a change that was never made.
Devices, addresses, routes and the flow namespace need no journal: the kernel takes them down with
the last descriptor.

The directory belongs to root and stays root's. The monitor, which is not root any more, holds the
journal open and reaches no path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from typing import Final

import msgspec

from shim.monitor.netlink import Netlink
from shim.monitor.plan import Rule
from shim.protocol import CONTROL, LOCK, RUN_DIRECTORY, state_directory

_JOURNAL: Final = "journal"
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
        self._journal = self._open(_JOURNAL, self._directory, os.O_APPEND)

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

    def record(self, rule: Rule) -> None:
        """Write down a change that is about to be made. Raises OSError: then it must not be."""
        line = msgspec.json.encode(rule) + b"\n"
        if os.write(self._journal, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def recorded(self) -> list[Rule]:
        """Return the changes that may have been made, oldest first."""
        lines = os.pread(self._journal, _MAX_JOURNAL_BYTES, 0).split(b"\n")[:-1]
        rules = []
        for line in lines:
            with suppress(msgspec.MsgspecError):
                rules.append(msgspec.json.decode(line, type=Rule))
        return rules

    def undo(self, netlink: Netlink) -> None:
        """Undo every recorded change. Raises OSError if the kernel refuses one."""
        for rule in reversed(self.recorded()):
            netlink.delete_rule(rule)
        os.ftruncate(self._journal, 0)

    def remove(self) -> None:
        """Remove the directory, if we may. The lock goes with this process."""
        with suppress(OSError):
            for name in (CONTROL, _JOURNAL, LOCK):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)
            os.rmdir(os.path.basename(self._path), dir_fd=self._parent)
        # Other namespaces may have theirs in it.
        with suppress(OSError):
            os.rmdir(RUN_DIRECTORY)
