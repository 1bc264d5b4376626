"""`python -I -B -m shim.resolved`: the helper for systemd-resolved, with its link on fd 3."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

from shim.exit import end_after
from shim.resolved import service

LINK_FD: Final = 3
_MAX_FD: Final = 1 << 20


def main() -> int:
    """Serve the client at the other end of the link. Returns the exit status."""
    sock = socket.socket(fileno=LINK_FD)
    os.closerange(4, _MAX_FD)  # what a caller has left open
    with suppress(PermissionError):
        os.setsid()
    return service.main(sock)


if __name__ == "__main__":
    end_after(main, "resolved helper")
