"""The check before a server starts that files and modules are there which it uses only later.

In a root of its own (systemd.exec(5), RootDirectory=) each of these is a bind that is easily
forgotten, and a server without it would start and give wrong answers. Neither the CA certificates
of the machine nor its user database is used. The loader and `import` report a library that is
missing, except for the modules that the standard library can do without.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from vpn.errors import ConfigurationError

NEEDED: Final = {
    "/etc/hosts": "the names that this machine knows itself",
    "/etc/resolv.conf": "the resolvers that know all others",
}
"""Files of the system, and what is in them."""

_FORGIVEN: Final = ("_bz2", "_hashlib", "_lzma", "_uuid", "zlib")
"""Extension modules with libraries of their own that the standard library can do without."""


def check(root: Path = Path("/")) -> None:
    """Raise ConfigurationError if something is missing below `root`, ImportError for a library."""
    for path, what in NEEDED.items():
        if not Path(root, path[1:]).exists():
            raise ConfigurationError(
                f"{path} is not there: {what}; in a unit with RootDirectory= add "
                f"'BindReadOnlyPaths={path}'"
            )
    for name in _FORGIVEN:
        if find_spec(name) is not None:
            importlib.import_module(name)
