"""`python -I -B -m shim.monitor`, link to the warden on fd 3. The warden starts it, nobody else."""

from __future__ import annotations

import socket
from typing import Final

from shim.exit import end_after
from shim.monitor import process

WARDEN_FD: Final = 3

if __name__ == "__main__":
    end_after(lambda: process.main(socket.socket(fileno=WARDEN_FD)), "monitor")
