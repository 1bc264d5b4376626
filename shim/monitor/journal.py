"""The journal of changes of the network, by which they are undone.

Theory of operation
-------------------
A change of the network is written to the journal before it is made; undoing is deleting, last
change first, and deleting what is not there is no error. So undoing works after any crash, at any
moment, any number of times.

The journal is a line of JSON per change. A last line that is torn is one that was never made.
Devices, addresses, routes and the flow namespace need no journal: the kernel takes them down with
the last descriptor.

With the kill switch the changes outlive the instance: only `down` and `recover` undo them. The
next instance holds them until its own are in place, so the switch has no gap.

It is used by descriptor; a process that holds it open needs no path.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from shim.netlink.changes import Change, KillSwitch
from shim.netlink.kernel import Netlink

SYSCALLS_TO_UNDO: Final = frozenset({"ftruncate", "pread64"})
SYSCALLS: Final = SYSCALLS_TO_UNDO | {"lseek", "pwrite64"}

_MAX_BYTES: Final = 1 << 20


class Journal:
    """The journal of a network namespace; a process of this instance must hold the lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.held = self.recorded()
        """The changes that are in place: at first those of an earlier instance."""

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    @property
    def has_kill_switch(self) -> bool:
        """Whether a kill switch is recorded: then only the user has changes undone."""
        return any(isinstance(change, KillSwitch) for change in self.recorded())

    def make(self, netlink: Netlink, plan: Iterable[Change]) -> None:
        """Make the changes of a plan, and undo those of an earlier one.

        Raises OSError; then nothing has changed.
        """
        made: list[Change] = []
        try:
            for change in plan:
                self._record(change)
                made.append(change)
                self._make(netlink, change)
        except OSError as error:
            if isinstance(error, FileExistsError):
                made.pop()  # not ours
            _revert(netlink, [change for change in made if change not in self.held])
            self._rewrite(self.held)
            raise
        _revert(netlink, [change for change in self.held if change not in made])
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
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if os.pwrite(self._fd, line, end) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rewrite(self, changes: Iterable[Change]) -> None:
        # Killed in between, what follows the new lines is undone a second time.
        text = b"".join(map(_line, changes))
        os.ftruncate(self._fd, os.pwrite(self._fd, text, 0))

    def recorded(self) -> list[Change]:
        """Return the changes that may have been made, oldest first."""
        lines = os.pread(self._fd, _MAX_BYTES, 0).split(b"\n")[:-1]
        changes: list[Change] = []
        for line in lines:
            with suppress(msgspec.MsgspecError):
                changes.append(msgspec.json.decode(line, type=Change))
        return changes

    def undo(self, netlink: Netlink) -> None:
        """Undo every recorded change. Raises OSError if the kernel refuses one."""
        _revert(netlink, self.recorded())
        os.ftruncate(self._fd, 0)
        self.held = []

    def undo_after(self, status: int, netlink: Netlink) -> bool:
        """Undo after a monitor that ended with `status`: 0 if the client has asked for the end.

        Otherwise the kill switch, if it is on, stays. Returns whether everything is undone.
        """
        is_over = status == 0 or not self.has_kill_switch
        if is_over:
            self.undo(netlink)
        return is_over


def _revert(netlink: Netlink, changes: list[Change]) -> None:
    for change in reversed(changes):
        netlink.revert(change)


def _line(change: Change) -> bytes:
    # On a line of its own, also after one that is torn.
    return b"\n" + msgspec.json.encode(change) + b"\n"
