"""Messages to the user or the log: lines on standard error, untrusted words in them printable."""

from __future__ import annotations

import sys
from contextlib import suppress

from vpn.text import printable


def say(line: str) -> None:
    """Print a message on one line. An error of the write, as on a full disk, is ignored."""
    with suppress(OSError):
        print(f"overlay-vpn: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)
