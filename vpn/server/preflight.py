"""What a server needs of the machine and would otherwise miss only when a client asks for it.

In a root of its own (systemd.exec(5), RootDirectory=) each of these is a bind that is easily
forgotten, and a server without it runs and is wrong in silence. Not here. Neither the CA
certificates of the machine nor its user database is used. A library is missed by the loader and by
`import`, which are loud, but for those modules without which the standard library makes do.
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
