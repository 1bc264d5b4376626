"""How a line reaches the user or the log, some of it in others' words."""

from __future__ import annotations

import sys
from contextlib import suppress

from vpn.text import printable


def say(line: str) -> None:
    """Say one line. What nobody can be told, as on a full disk, is lost."""
    with suppress(OSError):
        print(f"overlay-vpn: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)
