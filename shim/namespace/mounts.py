"""The file system of a command under `run`: the host's, except for name resolution.

Theory of operation
-------------------
A bind mount over `/etc/resolv.conf` is not enough: the kernel detaches it as soon as a process on
the host replaces the file, as resolvers do (rename(2) on a mount point of another namespace). So
`/etc` itself becomes a small file system of our own, in which every entry is a link to the host's,
reachable below `/etc/.host`, and a few entries are files of ours:

- `resolv.conf` names the gate, `nsswitch.conf` asks files and DNS and nobody else;
- `ssh_config` and its parts are copied: in a namespace with one user id, root's files belong to
  nobody, and ssh does not read what belongs to nobody.

Sockets behind which another process would resolve names, outside, live in directories that a
service makes when it starts and removes when it stops, which detaches a mount on them as well. So
`/run`, and a directory in it that has such a one, become file systems of our own too, in which
everything else is bound to the host's. Hidden as well is the socket of our own shim, which would
give the command, as its user, sockets of the host. The system bus is hidden only on request; much
else lives there.

Entries that the host adds to `/etc` later are below `/etc/.host` only; to `/run`, nowhere.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final

from shim import linux
from shim.protocol import GATEWAY4
from shim.protocol.paths import RUN_DIRECTORY

_HOST: Final = ".host"
_OURS: Final = os.path.basename(RUN_DIRECTORY)
_HIDDEN: Final = {
    # What is inside comes first.
    "/run/systemd": frozenset({"resolve"}),
    "/run": frozenset({"nscd", "avahi-daemon", _OURS}),
    "/var/run": frozenset({"nscd", "avahi-daemon", _OURS}),
}
_BUS: Final = frozenset({"dbus"})
_FLAGS: Final = linux.MS_NOSUID | linux.MS_NODEV
_HOSTS_LINE: Final = re.compile(r"^hosts:.*$", re.MULTILINE)
_SSH: Final = "ssh"
_MAX_COPY_BYTES: Final = 1 << 20


def prepare(*, mask_bus: bool) -> None:
    """Set up the mounts of this mount namespace. Raises OSError that names the path."""
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    _cover_etc()
    for directory, names in _HIDDEN.items():
        if os.path.isdir(directory) and not os.path.islink(directory):
            _cover(directory, names | _BUS if mask_bus else names)


def _cover_etc() -> None:
    host = linux.clone_mounts("/etc")
    names = os.listdir("/etc")
    linux.mount("none", "/etc", "tmpfs", _FLAGS, "mode=755,size=8m")
    os.mkdir(f"/etc/{_HOST}")
    linux.attach_mounts(host, f"/etc/{_HOST}")
    os.close(host)
    for name in names:
        if name not in (_HOST, "resolv.conf", "nsswitch.conf", _SSH):
            os.symlink(f"{_HOST}/{name}", f"/etc/{name}")
    _write("/etc/resolv.conf", f"nameserver {GATEWAY4}\n")
    _write("/etc/nsswitch.conf", _nsswitch(_read(f"/etc/{_HOST}/nsswitch.conf")))
    if _SSH in names:
        _take_over_ssh()


def _cover(directory: str, hidden: frozenset[str]) -> None:
    """Mount a tmpfs over a directory, with everything that is in it except some names."""
    kept: list[tuple[str, bool, int]] = []
    links: list[tuple[str, str]] = []
    for entry in os.scandir(directory):
        with suppress(FileNotFoundError):  # it has just been removed
            if entry.is_symlink():
                links.append((entry.path, os.readlink(entry.path)))
            elif entry.name not in hidden:
                kept.append((entry.path, entry.is_dir(), linux.clone_mounts(entry.path)))
    linux.mount("none", directory, "tmpfs", _FLAGS, "mode=755,size=1m")
    for path, target in links:
        os.symlink(target, path)
    for path, is_directory, mounts in kept:
        if is_directory:
            os.mkdir(path)
        else:
            _write(path, "")
        linux.attach_mounts(mounts, path)
        os.close(mounts)


def _nsswitch(text: str) -> str:
    line = "hosts: files dns"
    return _HOSTS_LINE.sub(line, text) if _HOSTS_LINE.search(text) else f"{text}{line}\n"


def _take_over_ssh() -> None:
    """Copy the files that ssh(1) reads only if root or the user owns them; link to the rest."""
    host = f"/etc/{_HOST}/{_SSH}"
    os.mkdir(f"/etc/{_SSH}")
    for entry in os.scandir(host):
        ours = f"/etc/{_SSH}/{entry.name}"
        if entry.name == "ssh_config":
            with suppress(PermissionError):
                _write(ours, _read(entry.path))
        elif entry.name == "ssh_config.d" and entry.is_dir():
            os.mkdir(ours)
            for part in os.scandir(entry.path):
                with suppress(OSError):
                    _write(f"{ours}/{part.name}", _read(part.path))
        else:
            os.symlink(f"../{_HOST}/{_SSH}/{entry.name}", ours)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_MAX_COPY_BYTES)
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
