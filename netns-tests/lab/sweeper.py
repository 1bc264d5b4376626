"""Finds and ends the processes of a lab, also when the test process was killed.

As a program, `sweeper.py TOKEN DIRECTORY` waits for the end of its standard input, whose other
end only the test process holds: the end comes when the lab closes, or when the test process
dies in whatever way. Then it kills all members of the lab and removes the directory. Namespaces
and mounts go with the last process in them, so nothing else has to be undone.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "OVERLAY_VPN_LAB"
"""Environment variable with the token of the lab, given to every program started in it."""
PATIENCE_S = 10.0


class Member(NamedTuple):
    """A process, its namespaces as /proc names them, and its command line."""

    pid: int
    net: str
    mnt: str
    command: str
    is_marked: bool


def _scan(mark: bytes) -> Iterator[Member]:
    for entry in Path("/proc").iterdir():
        # OSError: it has ended, is a zombie, or belongs to someone we may not look at.
        if entry.name.isdigit():
            with suppress(OSError):
                net, mnt = (os.readlink(entry / "ns" / kind) for kind in ("net", "mnt"))
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                command = words.decode(errors="replace").strip()
                is_marked = mark in (entry / "environ").read_bytes().split(b"\0")
                yield Member(int(entry.name), net, mnt, command, is_marked)


def members(token: str) -> list[Member]:
    """Return the processes that carry the token, or live in a namespace of one that does.

    The second half finds a process that has cleaned its environment, the first one that has
    left for a namespace of its own.
    """
    everyone = list(_scan(f"{MARK}={token}".encode()))
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt")}
    spaces = {space for one in everyone if one.is_marked for space in (one.net, one.mnt)} - own
    return [one for one in everyone if one.is_marked or one.net in spaces or one.mnt in spaces]


def sweep(token: str) -> None:
    """Kill until two looks in a row find nobody: a process may fork between look and kill.

    The kernel gives the number of a namespace that has gone to the next one, perhaps to another
    lab's while we look: who is known by a namespace alone is killed if a second look finds it, too.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline_s:
        found = members(token)
        again = {member.pid for member in members(token)}
        for member in found:
            if member.is_marked or member.pid in again:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(0.005)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
