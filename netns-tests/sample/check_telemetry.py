"""A test that passes wherever it runs, but contacts a server that it has no business with."""

from __future__ import annotations

import socket
from contextlib import suppress


def test_client_works_without_telemetry() -> None:
    with suppress(OSError):
        socket.create_connection(("git.example.com", 80), timeout=10).close()
