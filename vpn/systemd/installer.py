"""The installer of the units: writes and removes our files, never one that a user has changed.

The first line of an installed file holds the checksum of the rest. A file without it, or with
another one, is an administrator's: it is left as it is, and that is said. A directory of drop-ins
is never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vpn.errors import ConfigurationError, OverlayError
from vpn.systemd import units

SERVER_ROOT: Final = Path("/var/lib/overlay-vpn/root")

_UNITS: Final = Path("/etc/systemd/system")
_OTHER_UNITS: Final = (Path("/run/systemd/system"), Path("/usr/lib/systemd/system"))
"""Where units and drop-ins are that we did not write (systemd.unit(5))."""
_USERS: Final = Path("/etc/sysusers.d")
_DEVICES: Final = Path("/etc/udev/rules.d")
_SEAL: Final = re.compile(r"# Written by 'overlay-vpn service install'. sha256 ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Place:
    """The system that is installed into: `/`, or a directory that stands for it."""

    root: Path = Path("/")

    def of(self, path: Path) -> Path:
        """Return where an absolute path of that system is."""
        return self.root / path.relative_to("/")

    def unit(self, name: str) -> Path:
        """Return where a unit is."""
        return self.of(_UNITS / name)

    def read(self, name: str) -> units.Unit:
        """Return what a unit and its drop-ins say, wherever they are. Raises ConfigurationError.

        To a template belong the drop-ins of all its instances.
        """
        folders = [self.of(folder) for folder in (_UNITS, *_OTHER_UNITS)]
        found = [folder / name for folder in folders if (folder / name).exists()]
        pattern = f"{name.replace('@', '@*')}.d/*.conf"
        drop_ins = [path for folder in folders for path in folder.glob(pattern)]
        if not found:
            raise ConfigurationError(
                f"there is no {self.unit(name)}; run 'overlay-vpn service install'"
            )
        texts = [found[0], *sorted(drop_ins, key=lambda path: path.name)]
        try:
            return units.Unit([each.read_text() for each in texts])
        except OSError as error:
            raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error


def paths(kind: str) -> list[Path]:
    """Return where the files of a service belong."""
    others = [_USERS / units.USERS, _DEVICES / units.DEVICES] if kind == "shim" else []
    return [_UNITS / name for name in units.UNITS[kind]] + others


def files(kind: str, python: str, binds: list[str]) -> dict[Path, str]:
    """Return the files of a service: where they belong, and what is in them."""
    return {path: units.render(path.name, python, binds) for path in paths(kind)}


def install(place: Place, wanted: dict[Path, str]) -> list[Path]:
    """Write the files that are not as they should be, and return them.

    Raises ConfigurationError, before anything is written, if one of them was changed by others.
    """
    texts = {place.of(path): _seal(text) for path, text in wanted.items()}
    written = [path for path, text in texts.items() if _ours(path) != text]
    for path in written:
        _write(path, texts[path])
    if any(path.name in units.UNITS["server"] for path in texts):
        place.of(SERVER_ROOT).mkdir(mode=0o755, parents=True, exist_ok=True)
    return written


def uninstall(place: Place, paths: list[Path]) -> list[Path]:
    """Remove what `install` has written, and return it.

    Raises ConfigurationError, before anything is removed, if a file was changed by others, or if a
    unit is still enabled.
    """
    there = [path for path in map(place.of, paths) if _ours(path) is not None]
    for path in there:
        pattern = path.name.replace("@", "@*")
        for link in path.parent.glob(f"*.wants/{pattern}"):
            raise ConfigurationError(
                f"{link.name} is enabled; run 'systemctl disable --now {link.name}' first"
            )
    for path in there:
        path.unlink()
    if any(path.name in units.UNITS["server"] for path in paths):
        _remove_skeleton(place.of(SERVER_ROOT))
    return there


def _seal(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"# Written by 'overlay-vpn service install'. sha256 {digest}\n{text}"


def _ours(path: Path) -> str | None:
    """Return what is in a file of ours; None if there is no file. Raises ConfigurationError."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    seal = _SEAL.match(text)
    if seal is None or _seal(text[seal.end() :]) != text:
        raise ConfigurationError(
            f"{path} was changed, or is not ours; keep the changes in {path}.d/*.conf, which is "
            "never touched, remove the file, and run this command again"
        )
    return text


def _write(path: Path, text: str) -> None:
    """Write a file that everybody may read; it is there with all of it, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with temporary.open("x") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OverlayError(f"cannot write {path}: {error.strerror}") from error


def _remove_skeleton(top: Path) -> None:
    """Remove the root of the server: the empty places on which systemd has put its mounts."""
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == 0:
                path.unlink()
        with suppress(OSError):  # whatever is in there is not ours
            Path(folder).rmdir()
    with suppress(OSError):
        top.parent.rmdir()
