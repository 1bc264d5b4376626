"""`python -I -B -m shim.monitor`, link on fd 3. Starts the keeper first: its loading takes long."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from shim.monitor.keeper import Keeper

LINK_FD: Final = 3
_MAX_FD: Final = 1 << 20


def main() -> None:
    """Start the keeper, then load and be the rest of the privileged side meanwhile."""
    try:
        link = socket.socket(fileno=LINK_FD)
    except OSError:
        sys.exit("overlay-vpn: the shim is started by 'overlay-vpn up', or by systemd on a socket")
    os.closerange(4, _MAX_FD)  # what a caller has left open
    keeper = Keeper()
    from shim.monitor import process

    process.main(link, keeper)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the last line of a process without a caller
        print(f"overlay-vpn warden: {type(error).__name__}: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
