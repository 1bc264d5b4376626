"""`python -I -B -m shim.warden`, link on fd 3. Starts the others first: loading takes long."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Final

from shim.ending import end_after
from shim.warden.children import Keeper, Monitor

LINK_FD: Final = 3
_MAX_FD: Final = 1 << 20


def main() -> int:
    """Start keeper and monitor, then load and be the warden meanwhile. Returns its status."""
    try:
        link = socket.socket(fileno=LINK_FD)
    except OSError:
        line = "the shim is started by 'overlay-vpn up', or by systemd on a socket"
        print(f"overlay-vpn: {line}", file=sys.stderr)
        return 1
    os.closerange(4, _MAX_FD)  # what a caller has left open
    with suppress(PermissionError):  # systemd has done it
        os.setsid()
    os.umask(0o022)
    keeper, monitor = Keeper(), Monitor()
    from shim.warden import process

    return process.main(link, keeper, monitor)


if __name__ == "__main__":
    end_after(main, "warden")
