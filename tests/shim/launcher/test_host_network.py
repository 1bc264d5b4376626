"""The netlink sockets by which the network of the machine is changed, wherever they come from."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.launcher import __main__ as program
from shim.launcher.host_network import HostNetwork, opened
from shim.netlink.links import Interfaces

# struct nlmsghdr and rtgenmsg: RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP (rtnetlink(7)).
EVERY_LINK = struct.pack("=IHHIIB3x", 20, 18, 0x301, 255, 0, 0)

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-I", "-B", "-m", "shim.launcher"])
"""


@pytest.fixture
def machine() -> Iterator[HostNetwork]:
    machine = opened()
    yield machine
    for sock in (machine._route, machine._netfilter):
        sock.close()
    os.close(machine.route)
    os.close(machine.netfilter)


def pending(machine: HostNetwork) -> bytes:
    with socket.socket(fileno=os.dup(machine.route)) as sock:
        try:
            return sock.recv(1 << 16, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return b""


def test_answers_to_somebody_who_was_killed_are_forgotten(machine: HostNetwork) -> None:
    with socket.socket(fileno=os.dup(machine.route)) as killed:
        killed.send(EVERY_LINK)
    assert pending(machine)  # the detector
    machine.forget()
    assert not pending(machine)


def test_cookie_is_that_of_every_socket_of_the_network(machine: HostNetwork) -> None:
    with socket.socket() as other:
        assert machine.cookie == other.getsockopt(socket.SOL_SOCKET, 71, 8) != bytes(8)


def test_sockets_stay_open_when_who_uses_them_is_done(machine: HostNetwork) -> None:
    Interfaces(machine.route).close()
    assert not pending(machine)
    for fd in machine.fds:
        os.fstat(fd)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"LISTEN_FDS": "3"},
        {"LISTEN_FDS": "3", "LISTEN_PID": "1"},
    ],
    ids=["none", "nobody's", "another's"],
)
def test_what_was_not_given_to_this_process_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str]
) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    assert program._given() == []


def test_service_of_an_old_socket_unit_says_so_and_serves_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "shim.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(path)
            argv = [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno())]
            fds = (listener.fileno(),)
            done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, check=False)
            assert done.returncode == 78
            assert "systemctl restart overlay-vpn-shim.socket" in done.stderr
            assert client.recv(64) == b""
