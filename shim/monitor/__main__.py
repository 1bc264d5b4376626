"""`python -I -B -m shim.monitor`, link to the warden on fd 3. The warden starts it, nobody else."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from shim.monitor import process

WARDEN_FD: Final = 3

if __name__ == "__main__":
    status = 1
    try:
        status = process.main(socket.socket(fileno=WARDEN_FD))
    except Exception as error:  # the last line of a process without a caller
        print(f"overlay-vpn monitor: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
