"""Contacts a server when it is loaded, as some do: that is part of the test run too."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

if place := os.environ.get("SAMPLE_CONTACTS"):
    with suppress(OSError):
        socket.create_connection((place, 80), timeout=10).close()
