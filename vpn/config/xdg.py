"""The default paths of a user's files (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_HOME: Final = Path(os.environ.get("HOME") or "/")
_CONFIG: Final = Path(os.environ.get("XDG_CONFIG_HOME") or _HOME / ".config") / "overlay-vpn"

IDENTITY: Final = _CONFIG / "identity"
AUTHORIZED_KEYS: Final = _HOME / ".ssh" / "authorized_keys"
