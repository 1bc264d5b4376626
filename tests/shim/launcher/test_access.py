"""Who is admitted, and to what: the policy, the file it is in, and who is at the other end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from shim.launcher import access
from shim.launcher.access import OVERFLOW, Peer, Policy, PolicyError, parse
from shim.protocol.common import Failed, Fault

NUMBERS = {"alice": 1001, "vpn": 2001}
ALICE = Peer(1001, frozenset({1001}))
BOB = Peer(1002, frozenset({1002, 2001}))
ROOT = Peer(0, frozenset({0}))


def policy(text: str) -> Policy:
    return parse(text, NUMBERS.__getitem__, NUMBERS.__getitem__)


# Who.


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("", []),
        ('users = ["alice"]', [ALICE]),
        ("users = [1001]", [ALICE]),
        ('groups = ["vpn"]', [BOB]),
        ("users = [1001]\ngroups = [2001]", [ALICE, BOB]),
    ],
)
def test_who_is_admitted(text: str, admitted: list[Peer]) -> None:
    assert [one for one in (ALICE, BOB) if policy(text).admits(one)] == admitted
    assert policy(text).admits(ROOT)


def test_nobody_is_never_admitted_whatever_the_policy_says() -> None:
    careless = policy(f"users = [{OVERFLOW}]\ngroups = [{OVERFLOW}]")
    assert not careless.admits(Peer(OVERFLOW, frozenset({OVERFLOW})))
    assert not careless.admits(Peer(1001, frozenset({OVERFLOW})))


# The file.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("users = alice", "Invalid value"),
        ('users = "alice"', "array"),
        ("users = [true]", "int | str"),
        ("users = [1.0]", "int | str"),
        ('users = ["bob"]', "bob"),
        ('user = ["alice"]', "user"),
        ('routes = ["10.0.0.1/8"]', "host bits"),
        ('routes = ["everything"]', "everything"),
    ],
)
def test_file_that_makes_no_sense_admits_nobody(text: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        policy(text)
    assert access.POLICY in str(caught.value)


def test_routes_are_prefixes_and_everything_if_not_said() -> None:
    said = policy('routes = ["10.0.0.0/8", "2001:DB8::/32"]')
    assert said.routes == ("10.0.0.0/8", "2001:db8::/32")
    assert policy("").routes == ("0.0.0.0/0", "::/0")


def test_no_file_means_root_alone(tmp_path: Path) -> None:
    assert access.read(str(tmp_path / "shim.toml")) == Policy()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that looks like root's."""
    path = tmp_path / "shim.toml"
    path.write_text("users = [1001]")
    path.chmod(0o644)
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = list(real(fd))
        status[4] = 0
        return os.stat_result(status)

    monkeypatch.setattr(access.os, "fstat", fstat)
    return path


def test_file_of_root_is_read(file: Path) -> None:
    assert access.read(str(file)).users == {1001}


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(PolicyError, match="nobody else may write"):
        access.read(str(file))


def test_what_is_no_regular_file_is_refused(file: Path, tmp_path: Path) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(file)
    os.mkfifo(fifo, 0o644)
    for path in (link, fifo, tmp_path):
        with pytest.raises(PolicyError, match=str(path)):
            access.read(str(path))


def test_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shim.toml"
    path.write_text("")
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 1001, 0)
    with pytest.raises(PolicyError, match="file of root"):
        access.read(str(path))


def test_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="cannot read"):
        access.read(str(file))


# The peer.


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(path))
    return sock


def test_connected_socket_is_whom_we_serve() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert access.admit(ours) == access.Admitted(ours, Policy(), None)


def test_peer_is_whom_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert access.peer_of(ours) == Peer(os.geteuid(), {os.getegid(), *os.getgroups()})


def test_whoever_is_turned_away_is_told_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first peer is not admitted, the second is."""
    answers = iter([False, True])
    monkeypatch.setattr(access.Policy, "admits", lambda *_: next(answers))
    path = tmp_path / "shim.sock"
    with listening(path) as listener, connect(path) as first, connect(path) as second:
        first.send(b"never read")
        admitted = access.admit(listener)
        assert admitted is not None
        assert admitted.others is listener
        # The kernel says that what was sent is still unread (unix(7)); then the answer is there.
        with pytest.raises(ConnectionResetError):
            first.recv(64)
        assert msgspec.msgpack.decode(first.recv(64), type=Failed) == Failed(Fault.POLICY, 0)
        second.send(b"for later")
        assert admitted.client.recv(64) == b"for later"
        admitted.client.close()


def test_detector_sees_a_server_that_reads(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as listener, connect(tmp_path / "s") as client:
        client.send(b"read")

        def serve() -> None:
            sock, _ = listener.accept()
            sock.recv(64)
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        assert client.recv(64) == b""


def test_nobody_in_time_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_PATIENCE_S", 0.01)
    with listening(tmp_path / "s") as listener:
        assert access.admit(listener) is None


def test_policy_that_cannot_be_followed_turns_away_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> Policy:
        raise PolicyError("broken")

    monkeypatch.setattr(access, "read", read)
    with listening(tmp_path / "s") as listener, connect(tmp_path / "s") as client:
        with pytest.raises(PolicyError):
            access.admit(listener)
        assert msgspec.msgpack.decode(client.recv(64), type=Failed) == Failed(Fault.POLICY, 0)
