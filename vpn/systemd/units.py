"""The units that are shipped, and the settings of a unit file (systemd.syntax(7)). Pure parsing.

The shipped files are complete for an installation in /opt/overlay-vpn, with all of /usr in the
root of the server. For another installation they are rendered: its interpreter takes the place of
that one, and the binds that it needs take the place of those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Final

from vpn.errors import ConfigurationError

UNITS: Final = {
    "server": ("overlay-vpn-server.service",),
    "shim": ("overlay-vpn-shim.service", "overlay-vpn-shim.socket"),
    "client": ("overlay-vpn-client@.service",),
}
USERS: Final = "overlay-vpn.conf"
"""The file for sysusers.d(5) that goes with the shim."""
DEVICES: Final = "85-overlay-vpn.rules"
"""The file for udev(7) that goes with it."""

_PYTHON: Final = "/opt/overlay-vpn/bin/python"
_BINDS: Final = re.compile(r"^BindReadOnlyPaths=.*$", re.MULTILINE)
_PLAIN: Final = re.compile(r"[\w@+,./-]+", re.ASCII)
_HIDDEN_HOMES: Final = ("yes", "true", "on", "1")
_HOMES: Final = ("/home", "/root", "/run/user")


def shipped(name: str) -> str:
    """Return a shipped file as it is."""
    return files("vpn.systemd").joinpath("files", name).read_text()


def render(name: str, python: str, binds: Sequence[str]) -> str:
    """Return a shipped file for an interpreter, and for a root that has `binds`.

    Raises ConfigurationError for a path that a unit cannot name.
    """
    for path in (python, *binds):
        if not _PLAIN.fullmatch(path):
            raise ConfigurationError(
                f"{path!r} cannot stand in a unit; install overlay-vpn where the path is plain, "
                "such as /opt/overlay-vpn"
            )
    text = shipped(name).replace(_PYTHON, python)
    if _BINDS.search(text):
        text = _BINDS.sub("\n".join(f"BindReadOnlyPaths={path}" for path in binds), text)
        if any(is_home(path) for path in binds):
            # yes would hide them; the rest of the homes is not in the root anyway.
            text = text.replace("ProtectHome=yes", "ProtectHome=tmpfs")
    return text


def is_home(path: str) -> bool:
    """Whether ProtectHome= is about this path (systemd.exec(5))."""
    return any(path == home or path.startswith(f"{home}/") for home in _HOMES)


class Unit:
    """The settings of a unit file and its drop-ins, in the order in which they apply."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for text in texts:
            for line in text.replace("\\\n", " ").splitlines():
                key, is_setting, value = line.strip().partition("=")
                if is_setting and key[:1] not in ("#", ";"):
                    self._add(key.rstrip(), value.strip())

    def _add(self, key: str, value: str) -> None:
        if value:
            self._values.setdefault(key, []).append(value)
        else:
            self._values.pop(key, None)  # of a list: what stood before does not count

    def values(self, key: str) -> list[str]:
        """Return all values of a setting, in order."""
        return self._values.get(key, [])

    def words(self, key: str) -> list[str]:
        """Return all words of a setting that is a list."""
        return [word for value in self.values(key) for word in value.split()]

    @property
    def interpreter(self) -> str | None:
        """The program that ExecStart= names."""
        words = self.words("ExecStart")
        return words[0] if words else None

    @property
    def has_root(self) -> bool:
        """Whether it has RootDirectory=."""
        return "RootDirectory" in self._values

    @property
    def binds(self) -> list[tuple[str, str]]:
        """What is in that root: source and destination of each bind, without those it hides."""
        words = (*self.words("BindReadOnlyPaths"), *self.words("BindPaths"))
        pairs = []
        for word in words:
            source, _, rest = word.removeprefix("-").partition(":")
            pairs.append((source, rest.partition(":")[0] or source))
        if self.values("ProtectHome")[-1:] and self.values("ProtectHome")[-1] in _HIDDEN_HOMES:
            pairs = [pair for pair in pairs if not is_home(pair[1])]
        return pairs

    @property
    def credentials(self) -> list[str]:
        """The files that LoadCredential= reads, where the unit names them in full."""
        sources = [word.partition(":")[2] for word in self.words("LoadCredential")]
        return [source for source in sources if "%" not in source]
