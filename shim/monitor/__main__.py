"""`python -I -B -m shim.monitor`, started by the launcher alone, with its link to it on fd 3."""

from __future__ import annotations

import socket
from typing import Final

from shim.exit import end_after
from shim.monitor import process

LAUNCHER_FD: Final = 3

if __name__ == "__main__":
    end_after(lambda: process.main(socket.socket(fileno=LAUNCHER_FD)), "monitor")
