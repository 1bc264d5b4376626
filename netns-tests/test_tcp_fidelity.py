"""T1 and T2: the handshake and the end of a connection are those of the far end.

app ──── router ──── server ──── target      the server makes the connection that counts
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time

import pytest

from lab import Lab, services, tcp, until
from lab.addresses import (
    ABSENT,
    CLOSED_PORT,
    FILTERED,
    NO_ROUTE,
    PROHIBITED,
    TARGET,
    Dual,
)
from lab.overlay import Overlay

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
BULK = 10_000_000
SLACK_S = 0.1


@pytest.fixture
def up(lab: Lab, overlay: Overlay) -> Overlay:
    overlay.up(overlay.serve())
    return overlay


def timed(lab: Lab, address: str, port: int) -> tuple[str, float]:
    start = time.monotonic()
    return tcp.outcome(lab.app, address, port), time.monotonic() - start


# T1: the handshake.


@FAMILIES
@pytest.mark.parametrize(
    ("place", "port", "expected"),
    [
        (TARGET, CLOSED_PORT, {"ECONNREFUSED"}),
        (ABSENT, 80, {"EHOSTUNREACH"}),
        (NO_ROUTE, 80, {"ENETUNREACH"}),
        # The kernel gives EHOSTUNREACH for ICMP code 13 and EACCES for ICMPv6 code 1.
        (PROHIBITED, 80, {"EHOSTUNREACH", "EACCES"}),
    ],
    ids=["closed", "absent", "no route", "prohibited"],
)
def test_connect_fails_as_at_the_far_end(
    lab: Lab, up: Overlay, family: int, place: Dual, port: int, expected: set[str]
) -> None:
    assert tcp.outcome(lab.server, place[family], port) in expected
    assert tcp.outcome(lab.app, place[family], port) in expected


@FAMILIES
def test_connect_to_filtered_stays_unanswered(lab: Lab, up: Overlay, family: int) -> None:
    assert tcp.outcome(lab.app, FILTERED[family], 80, 2.5) == "timeout"


@FAMILIES
def test_closed_port_is_refused_at_once(lab: Lab, up: Overlay, family: int) -> None:
    rounds = [timed(lab, TARGET[family], CLOSED_PORT) for _ in range(5)]
    assert {outcome for outcome, _ in rounds} == {"ECONNREFUSED"}
    beside = min(elapsed for elapsed in (_direct_round_trip(lab) for _ in range(3)))
    assert min(elapsed for _, elapsed in rounds) < beside + SLACK_S


def _direct_round_trip(lab: Lab) -> float:
    start = time.monotonic()
    tcp.outcome(lab.server, TARGET.v4, CLOSED_PORT)
    return time.monotonic() - start


@FAMILIES
def test_no_answer_before_the_far_end_has_answered(lab: Lab, up: Overlay, family: int) -> None:
    """A listener whose queue is full answers no SYN: nor may we."""
    with tcp.listen(lab.target, TARGET[family]) as listener:
        listener.listen(0)
        port = listener.getsockname()[1]
        queued = []
        while True:
            filler = lab.target.call(socket.socket, listener.family, socket.SOCK_STREAM)
            filler.settimeout(0.3)
            queued.append(filler)
            try:
                filler.connect((TARGET[family], port))
            except TimeoutError:
                break
        assert tcp.outcome(lab.app, TARGET[family], port, 0.7) == "timeout"
        for filler in queued:
            filler.close()


@FAMILIES
def test_200_connects_none_is_connected_and_then_reset(lab: Lab, up: Overlay, family: int) -> None:
    outcomes = [tcp.outcome(lab.app, TARGET[family], CLOSED_PORT) for _ in range(100)]
    assert set(outcomes) == {"ECONNREFUSED"}
    server = tcp.serve(lab.target, "echo", TARGET[family], 7000)
    for _ in range(100):
        with tcp.connect(lab.app, TARGET[family], 7000) as stream:
            stream.sendall(b"there?")
            assert stream.recv(99) == b"there?"
    assert server.is_alive


# T2: the end.


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def receive_all(stream: socket.socket) -> bytes:
    stream.settimeout(30)
    parts = []
    while part := stream.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


@FAMILIES
def test_half_close_while_bulk_flows_each_way(lab: Lab, up: Overlay, family: int) -> None:
    for closes_first in ("near", "far"):
        near, far = tcp.pair(lab.app, lab.target, TARGET[family])
        first, second = (near, far) if closes_first == "near" else (far, near)
        one, other = os.urandom(BULK), os.urandom(BULK)
        got: dict[str, bytes] = {}

        def take(name: str, stream: socket.socket, into: dict[str, bytes] = got) -> None:
            into[name] = receive_all(stream)

        readers = [
            threading.Thread(target=take, args=arguments)
            for arguments in (("first", first), ("second", second))
        ]
        for reader in readers:
            reader.start()
        first.sendall(one)
        first.shutdown(socket.SHUT_WR)
        second.sendall(other)
        second.shutdown(socket.SHUT_WR)
        for reader in readers:
            reader.join(40)
        assert sha256(got["second"]) == sha256(one)
        assert sha256(got["first"]) == sha256(other)
        near.close()
        far.close()


@FAMILIES
def test_answer_after_half_close(lab: Lab, up: Overlay, family: int) -> None:
    near, far = tcp.pair(lab.app, lab.target, TARGET[family])
    with near, far:
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert receive_all(far) == b"question"
        time.sleep(0.2)  # the other direction stays open however long it takes
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert receive_all(near) == b"answer"


@FAMILIES
def test_simultaneous_close_is_clean_on_both_sides(lab: Lab, up: Overlay, family: int) -> None:
    for _ in range(20):
        near, far = tcp.pair(lab.app, lab.target, TARGET[family])
        with near, far:
            near.shutdown(socket.SHUT_WR)
            far.shutdown(socket.SHUT_WR)
            assert receive_all(near) == b""
            assert receive_all(far) == b""


@FAMILIES
def test_reset_of_the_far_end_arrives_as_reset(lab: Lab, up: Overlay, family: int) -> None:
    near, far = tcp.pair(lab.app, lab.target, TARGET[family])
    with near:
        near.settimeout(10)
        tcp.reset(far)
        with pytest.raises(ConnectionResetError):
            near.recv(1)


@FAMILIES
def test_reset_of_the_application_arrives_as_reset(lab: Lab, up: Overlay, family: int) -> None:
    near, far = tcp.pair(lab.app, lab.target, TARGET[family])
    with far:
        tcp.reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)


@FAMILIES
def test_close_with_unread_data_arrives_as_reset(lab: Lab, up: Overlay, family: int) -> None:
    near, far = tcp.pair(lab.app, lab.target, TARGET[family])
    with near:
        near.settimeout(10)
        near.sendall(b"nobody will read this")
        until(lambda: len(far.recv(99, socket.MSG_PEEK)) > 0, 15, "the data to arrive")
        far.close()
        with pytest.raises(ConnectionResetError):
            near.recv(1)


def test_through_sshd_fates_are_told_from_its_wordings(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    overlay.up(overlay.serve_ssh(), "--dns-server", TARGET.v4)
    for place, port, expected in (
        (TARGET, CLOSED_PORT, {"ECONNREFUSED"}),
        (ABSENT, 80, {"EHOSTUNREACH"}),
        (NO_ROUTE, 80, {"ENETUNREACH"}),
    ):
        for address in place:
            assert tcp.outcome(lab.app, address, port) in expected
