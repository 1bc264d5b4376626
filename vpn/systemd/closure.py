"""The files that a server of this installation needs in its root, and those that are missing.

Theory of operation
-------------------
`needs` asks the probe which modules and extension modules a server loads, and the dynamic loader
which libraries those have, searched for as it would in the root: without the cache of this
machine (ld.so(8), --inhibit-cache), unless they are found in no other way. Libraries that are
loaded by name at run time are not among them; whoever does that can do without.

`missing` walks a path as the kernel would inside of the root. A bind holds what it binds and
nothing else, so a symbolic link in a directory that is bound leads to a need of its own: that is
how an environment needs the interpreter that it was made from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vpn.errors import OverlayError
from vpn.server.preflight import NEEDED
from vpn.systemd.probe import Loaded

_CACHE: Final = "/etc/ld.so.cache"
_MAX_LINKS: Final = 40  # path_resolution(7)


@dataclass(frozen=True, slots=True)
class Need:
    """A path that must be in the root, and what needs it."""

    path: str
    reason: str


def interpreter() -> str:
    """Return the interpreter of this installation, by the name that an environment gives it."""
    is_environment = sys.prefix != sys.base_prefix
    return f"{sys.prefix}/bin/python" if is_environment else sys.executable


def needs() -> list[Need]:
    """Return what a server of this installation needs. Raises OverlayError."""
    loaded = _probe()
    found = [Need(interpreter(), "the interpreter")]
    found += [Need(path, "modules of Python") for path in _trees(loaded)]
    extensions = set(loaded.modules) & set(loaded.objects)
    found += [Need(path, f"a library of {of}") for path, of in _libraries(loaded, extensions)]
    found += [Need(path, reason) for path, reason in NEEDED.items()]
    return found


def binds_for(found: Sequence[Need]) -> list[str]:
    """Return the fewest paths that, bound each to its own place, leave nothing missing."""
    binds: list[str] = []
    for need in sorted(found, key=lambda need: need.path):
        while (path := missing(need.path, [(bind, bind) for bind in binds])) is not None:
            binds.append(path)
    return binds


def missing(path: str, binds: Sequence[tuple[str, str]]) -> str | None:
    """Return what has to be bound next for `path` to be there, or None if it is.

    `binds` are pairs of source and destination. Raises OverlayError for a loop of links.
    """
    for _ in range(_MAX_LINKS):
        held = [pair for pair in binds if path == pair[1] or path.startswith(f"{pair[1]}/")]
        if not held:
            return path
        source, destination = max(held, key=lambda pair: len(pair[1]))
        target = _first_link(source, destination, path[len(destination) + 1 :])
        if target is None:
            return None if os.path.exists(source + path[len(destination) :]) else path
        path = target
    raise OverlayError(f"too many symbolic links at {path}")


def _first_link(source: str, destination: str, inner: str) -> str | None:
    """Follow the first symbolic link below a bind; returns the path to go on with."""
    parts = [part for part in inner.split("/") if part]
    for number, part in enumerate(parts):
        source = f"{source}/{part}"
        if os.path.islink(source):
            rest = parts[number + 1 :]
            return os.path.normpath(os.path.join(destination, os.readlink(source), *rest))
        destination = f"{destination}/{part}"
    return None


def _probe() -> Loaded:
    argv = [sys.executable, "-I", "-B", "-m", "vpn.systemd.probe"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = done.stderr.strip().rpartition("\n")[2]
        raise OverlayError(f"a server cannot run here, whatever its root: {why}")
    return msgspec.json.decode(done.stdout, type=Loaded)


def _trees(loaded: Loaded) -> list[str]:
    """Return the directories that hold the modules: the environment, the library, our own."""
    tops = [sys.prefix] if sys.prefix != sys.base_prefix else []
    tops += [path for path in loaded.path if os.path.isdir(path)]
    others = [file for file in loaded.modules if not any(_is_below(file, top) for top in tops)]
    used = {top for top in tops if any(_is_below(file, top) for file in loaded.modules)}
    return sorted(used | {_package(Path(file)) for file in others})


def _is_below(path: str, top: str) -> bool:
    return path.startswith(f"{top}/")


def _package(file: Path) -> str:
    """Return the top-level package that a module is in, or the module itself."""
    top = file
    while (top.parent / "__init__.py").exists():
        top = top.parent
    return str(top)


def _libraries(loaded: Loaded, extensions: set[str]) -> list[tuple[str, str]]:
    python = os.path.realpath(sys.executable)
    real = next(file for file in loaded.objects if Path(file).name.startswith("ld-"))
    # The kernel knows the loader by the name that the interpreter has for it (elf(5), PT_INTERP).
    names = [path for path in _listed(real, python) if path is not None]
    loader = next(path for path in names if Path(path).name == Path(real).name)
    found: dict[str, str] = {}
    for file in (python, *sorted(extensions)):
        listed = _listed(loader, file, "--inhibit-cache")
        if None in listed:
            found.setdefault(_CACHE, Path(file).name)
            listed = _listed(loader, file)
        for path in listed:
            if path is not None:
                found.setdefault(path, Path(file).name)
    return list(found.items())


def _listed(loader: str, file: str, *options: str) -> list[str | None]:
    """Return the libraries that the loader finds for a file; None for one that it does not."""
    argv = [loader, *options, "--list", file]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found: list[str | None] = []
    for line in done.stdout.splitlines():
        name, _, where = line.strip().partition(" => ")
        if name.startswith("/"):
            found.append(name.partition(" ")[0])
        elif where:
            found.append(where.partition(" ")[0] if where.startswith("/") else None)
    return found
