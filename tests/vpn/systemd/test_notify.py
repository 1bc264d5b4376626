"""What a service manager is told, received by one that is real but for systemd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from descriptors import none_left

from vpn import identity
from vpn.systemd.notify import READY, Notifier, status, watchdog_s


class Manager:
    """Receives messages, as systemd does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(20)

    def hears(self) -> list[str]:
        """The lines of the next message."""
        return self._socket.recv(4096).decode().split("\n")

    def hears_besides_life(self) -> list[str]:
        """The lines of the next message that is not a mere sign of life."""
        while (lines := self.hears()) == ["WATCHDOG=1"]:
            pass
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@overlay-vpn-test-{os.getpid()}"
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield manager
    manager.close()


def test_message_is_one_datagram_of_lines(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.address}).send(READY, status("two\nlines"))
    assert manager.hears() == ["READY=1", "STATUS=two lines"]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).send(READY)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send(READY)


def test_without_a_descriptor_left_it_is_alive_all_the_same(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000"})

    async def turn() -> None:
        with none_left():
            notifier.keep_alive()
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]

    asyncio.run(turn())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_told_twice_as_often_as_it_waits(
    environment: dict[str, str], expected: float | None
) -> None:
    assert watchdog_s(environment, 7) == expected


def test_sign_of_life_stops_with_the_event_loop(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000"})

    async def turn() -> None:
        notifier.keep_alive()
        for _ in range(3):
            assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]

    asyncio.run(turn())
    notifier.send("X=last")
    while (lines := manager.hears()) != ["X=last"]:
        assert lines == ["WATCHDOG=1"]
    manager._socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        manager.hears()


def test_server_says_when_it_is_usable_and_when_it_stops(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    identity.generate(tmp_path / "key")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    argv = [sys.executable, "-m", "vpn.cli.main", "server", "--listen", where]
    argv += ["--key", str(tmp_path / "key"), "--authorized-keys", str(tmp_path / "nobody")]
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    inherited = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"}
    server = subprocess.Popen(argv, env=inherited | environment, stdout=subprocess.PIPE)
    try:
        assert manager.hears_besides_life() == ["READY=1", f"STATUS=listening on {where}/udp"]
        assert manager.hears() == ["WATCHDOG=1"]
        server.send_signal(signal.SIGTERM)
        assert manager.hears_besides_life()[0] == "STOPPING=1"
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.communicate()
        manager.close()
