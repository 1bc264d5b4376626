"""The launcher while a client is served: whoever else comes is told so, and is not read."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import msgspec

from shim.launcher import process
from shim.protocol.common import Failed, Fault


def test_other_clients_are_told_busy_until_the_monitor_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "shim.sock")
    ended, end = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as others:
        others.bind(path)
        others.listen()
        others.setblocking(False)
        thread = threading.Thread(target=process._turn_away, args=(others, ended))
        thread.start()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as another:
                another.settimeout(10)
                another.connect(path)
                answer = msgspec.msgpack.decode(another.recv(64), type=Failed)
                assert answer == Failed(Fault.BUSY, 0)
                assert another.recv(64) == b""
        assert thread.is_alive()
        os.close(end)
        thread.join(10)
        assert not thread.is_alive()
    os.close(ended)
