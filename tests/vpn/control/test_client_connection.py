"""One request on one connection: whose answer is taken, and for how long it is waited."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fakes import STATUS, Up, listener_at, saying, serving

from shim.protocol.common import Hello
from shim.protocol.link import LinkClosedError, Message, ViolationError
from vpn.control import client_connection, messages
from vpn.control.client_connection import (
    NOBODY,
    Connection,
    close_all,
    connect,
    error_of,
    not_permitted,
)
from vpn.control.messages import (
    VERSION,
    Done,
    GetNamespaces,
    GetStatus,
    Namespaces,
    Refusal,
    Refused,
    RefusedError,
    Request,
    StatusAnswer,
    TakeDown,
    Warned,
)
from vpn.errors import NotPermittedError, OverlayError, VersionError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def encoded(*answers: Message) -> list[bytes]:
    return [msgspec.msgpack.encode(one) for one in answers]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_answer_of_the_kind_is_returned(path: str) -> None:
    with serving(path, Up), Connection(path, GetStatus()) as connection:
        assert connection.receive(StatusAnswer) == (StatusAnswer(STATUS), [])
        with pytest.raises(LinkClosedError):
            connection.receive(StatusAnswer)


def test_answer_of_another_kind_is_a_violation(path: str) -> None:
    with (
        saying(path, *encoded(Hello(VERSION), Done())),
        Connection(path, GetStatus()) as connection,
        pytest.raises(ViolationError),
    ):
        connection.receive(StatusAnswer)


@pytest.mark.parametrize(
    ("greeting", "error"), [([Hello(VERSION)], ViolationError), ([], VersionError)]
)
def test_descriptors_that_are_not_wanted_are_closed(
    path: str, greeting: list[Message], error: type[Exception]
) -> None:
    with listener_at(path) as listener, Connection(path, GetStatus()) as connection:
        accepted, _ = listener.accept()
        with accepted:
            for packet in encoded(*greeting):
                accepted.send(packet)
            socket.send_fds(accepted, encoded(Namespaces()), [0, 0, 0])
            before = open_files()
            with pytest.raises(error):
                connection.receive(StatusAnswer)
            assert open_files() == before


def test_namespaces_are_the_callers_to_close(path: str) -> None:
    with listener_at(path) as listener, Connection(path, GetNamespaces()) as connection:
        accepted, _ = listener.accept()
        with accepted:
            accepted.send(*encoded(Hello(VERSION)))
            socket.send_fds(accepted, encoded(Namespaces()), [0, 0, 0])
            _, fds = connection.receive(Namespaces)
            assert len(set(fds)) == 3
            close_all(fds)


def test_refusal_is_an_error_of_its_own(path: str) -> None:
    with (
        saying(path, *encoded(Hello(VERSION), Refused(Refusal.FAILED, "no room"))),
        Connection(path, GetStatus()) as connection,
        pytest.raises(RefusedError) as raised,
    ):
        connection.receive(StatusAnswer)
    assert (raised.value.why, raised.value.text) == (Refusal.FAILED, "no room")


@pytest.mark.parametrize(
    ("request_", "version", "is_taken"),
    [
        (GetStatus(), VERSION, True),
        (GetStatus(), VERSION + 1, False),
        (TakeDown(), VERSION, True),
        (TakeDown(), VERSION + 1, True),
    ],
)
def test_only_an_order_to_go_down_is_for_any_version(
    path: str, request_: Request, version: int, is_taken: bool
) -> None:
    with (
        saying(path, *encoded(Hello(version), Done())),
        Connection(path, request_) as connection,
    ):
        if is_taken:
            assert connection.receive(Done) == (Done(), [])
        else:
            with pytest.raises(VersionError):
                connection.receive(Done)


def test_greeting_comes_once(path: str) -> None:
    with (
        saying(path, *encoded(Hello(VERSION), Warned("one"), Hello(VERSION))),
        Connection(path, GetStatus()) as connection,
    ):
        assert connection.receive(Warned)[0] == Warned("one")
        with pytest.raises(ViolationError):
            connection.receive(Warned)


def test_what_a_server_says_before_it_hangs_up_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for packet in encoded(Hello(VERSION), Refused(Refusal.NOT_PERMITTED)):
        theirs.send(packet)
    theirs.close()
    monkeypatch.setattr(client_connection, "connect", lambda path, timeout_s: ours)
    with Connection("", GetStatus()) as connection, pytest.raises(RefusedError):
        connection.receive(Done)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)
    started_s = time.monotonic()
    yield
    assert 0.04 < time.monotonic() - started_s < 5


def test_silence_is_waited_for_only_so_long(path: str, hurried: None) -> None:
    with (
        listener_at(path),
        Connection(path, GetStatus()) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.receive(Done)


def test_timeout_of_the_caller_counts(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 60.0)
    with (
        listener_at(path),
        Connection(path, GetStatus(), 0.05) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.receive(Done)


def test_full_backlog_is_waited_for_only_so_long(path: str, hurried: None) -> None:
    with listener_at(path) as listener:
        listener.listen(0)
        with connect(path):
            before = open_files()
            with pytest.raises(TimeoutError):
                connect(path)
            assert open_files() == before


def test_where_nobody_listens_nothing_is_left_open(path: str) -> None:
    before = open_files()
    with pytest.raises(NOBODY):
        connect(path)
    with listener_at(path):
        pass
    with pytest.raises(NOBODY):
        Connection(path, GetStatus())
    assert open_files() == before


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (RefusedError(Refusal.NOT_UP), "the tunnel is not up yet; see 'overlay-vpn status'"),
        (RefusedError(Refusal.BUSY, "x"), "there is a capture already; end that one first"),
        (RefusedError(Refusal.FAILED, "no room"), "no room"),
        (RefusedError(Refusal.MALFORMED), "malformed"),
    ],
)
def test_refusal_is_one_line_for_people(refused: RefusedError, line: str) -> None:
    error = error_of(refused)
    assert str(error) == line
    assert type(error) is OverlayError


def test_another_users_tunnel_is_a_matter_of_permission() -> None:
    error = error_of(RefusedError(Refusal.NOT_PERMITTED, "x"))
    assert isinstance(error, NotPermittedError)
    assert str(error) == str(not_permitted())
