"""T1 and T2: the handshake and the end of a connection are those of the far end.

app ──── router ──── server ──── target      the server makes the connection that counts

Each from the machine under `up` and from a command under `run`, over our server and a stock sshd.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time

import pytest

from lab import Host, Lab, services, tcp, until
from lab.addresses import (
    ABSENT,
    CLOSED_PORT,
    FILTERED,
    NO_ROUTE,
    PROHIBITED,
    TARGET,
    Dual,
)
from lab.overlay import PROGRAM, Overlay
from lab.ways import Way

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
BULK = 10_000_000
SLACK_S = 0.1
OVER_SSHD = pytest.mark.fidelity("policy denied → ICMP admin-prohibited", over="sshd")


def timed(host: Host, address: str, port: int) -> tuple[str, float]:
    start = time.monotonic()
    return tcp.outcome(host, address, port), time.monotonic() - start


# T1: the handshake.


FATES = {
    "closed": (TARGET, CLOSED_PORT, {"ECONNREFUSED"}),
    "absent": (ABSENT, 80, {"EHOSTUNREACH"}),
    "no route": (NO_ROUTE, 80, {"ENETUNREACH"}),
    # The kernel gives EHOSTUNREACH for ICMP code 13 and EACCES for ICMPv6 code 1.
    "prohibited": (PROHIBITED, 80, {"EHOSTUNREACH", "EACCES"}),
}


@pytest.mark.fidelity("refused → RST")
@pytest.mark.fidelity("host/net unreachable → ICMP")
@pytest.mark.fidelity("IPv6 flows")
@FAMILIES
@pytest.mark.parametrize(("place", "port", "expected"), FATES.values(), ids=FATES)
def test_connect_fails_as_at_the_far_end(
    way: Way, family: int, place: Dual, port: int, expected: set[str]
) -> None:
    assert tcp.outcome(way.lab.server, place[family], port) in expected
    assert tcp.outcome(way.app, place[family], port) in expected


@pytest.mark.fidelity("timeout stays a timeout")
@FAMILIES
def test_connect_to_filtered_stays_unanswered(way: Way, family: int) -> None:
    assert tcp.outcome(way.app, FILTERED[family], 80, 2.5) == "timeout"


@FAMILIES
def test_closed_port_is_refused_at_once(way: Way, family: int) -> None:
    beside = min(timed(way.lab.server, TARGET[family], CLOSED_PORT)[1] for _ in range(3))

    def is_at_once() -> bool:
        outcome, elapsed = timed(way.app, TARGET[family], CLOSED_PORT)
        assert outcome == "ECONNREFUSED"
        return elapsed < beside + SLACK_S

    until(is_at_once, 15, "a refusal that takes no longer than beside the tunnel")


@pytest.mark.fidelity("connect-first (SYN held)")
@FAMILIES
def test_no_answer_before_the_far_end_has_answered(way: Way, family: int) -> None:
    """A listener whose queue is full answers no SYN: nor may we."""
    with tcp.listen(way.lab.target, TARGET[family]) as listener:
        listener.listen(0)
        port = listener.getsockname()[1]
        queued = []
        while True:
            filler = way.lab.target.call(socket.socket, listener.family, socket.SOCK_STREAM)
            filler.settimeout(0.3)
            queued.append(filler)
            try:
                filler.connect((TARGET[family], port))
            except TimeoutError:
                break
        assert tcp.outcome(way.app, TARGET[family], port, 0.7) == "timeout"
        for filler in queued:
            filler.close()


@FAMILIES
def test_200_connects_none_is_connected_and_then_reset(way: Way, family: int) -> None:
    outcomes = [tcp.outcome(way.app, TARGET[family], CLOSED_PORT) for _ in range(100)]
    assert set(outcomes) == {"ECONNREFUSED"}
    server = tcp.serve(way.lab.target, "echo", TARGET[family], 7000)
    for _ in range(100):
        with tcp.connect(way.app, TARGET[family], 7000) as stream:
            stream.sendall(b"there?")
            assert stream.recv(99) == b"there?"
    assert server.is_alive
    server.stop()


FORWARDING = f'restrict,port-forwarding,permitopen="{TARGET.v4}:80",permitopen="[{TARGET.v6}]:80"'
DENIED = ({"EHOSTUNREACH"}, {"EACCES"})
"""What Linux makes of ICMP type 3 code 13, and of ICMPv6 type 1 code 1."""


@pytest.mark.fidelity("policy denied → ICMP admin-prohibited")
@pytest.mark.parametrize("server", ["ours", pytest.param("sshd", marks=OVER_SSHD)])
def test_port_that_the_server_does_not_permit_is_prohibited(
    lab: Lab, overlay: Overlay, server: str
) -> None:
    accepted = f"{FORWARDING} {overlay.identity.with_suffix('.pub').read_text()}"
    for path in (overlay.authorized_keys, overlay.identity.with_name("authorized_keys")):
        path.write_text(accepted)
    services.web(lab, lab.target)
    endpoint = overlay.serve() if server == "ours" else overlay.serve_ssh()
    overlay.up(endpoint, "--dns", "virtual")
    for address, expected in zip(TARGET, DENIED, strict=True):
        assert tcp.outcome(lab.app, address, 80) == "connected"
        assert tcp.outcome(lab.app, address, 443) in expected
        assert tcp.outcome(lab.app, address, CLOSED_PORT) in expected


def test_address_that_a_rule_denies_is_prohibited(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    words = [endpoint.target, *endpoint.pin, "-i", overlay.identity]
    words += [word for address in TARGET for word in ("--deny", address)]
    script = f"{{ nc -vz {TARGET.v4} {CLOSED_PORT}; nc -vz {TARGET.v6} {CLOSED_PORT}; }} 2>&1"
    argv = [PROGRAM, "run", *words, "--", "sh", "-c", script]
    done = lab.app.run(argv, user=lab.alice, check=False)
    first, second = done.stdout.splitlines()
    assert "No route to host" in first
    assert "Permission denied" in second


# T2: the end.


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def receive_all(stream: socket.socket) -> bytes:
    stream.settimeout(30)
    parts = []
    while part := stream.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.fidelity("TCP half-close")
@FAMILIES
def test_half_close_while_bulk_flows_each_way(way: Way, family: int) -> None:
    for closes_first in ("near", "far"):
        near, far = tcp.pair(way.app, way.lab.target, TARGET[family])
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
def test_answer_after_half_close(way: Way, family: int) -> None:
    near, far = tcp.pair(way.app, way.lab.target, TARGET[family])
    with near, far:
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert receive_all(far) == b"question"
        time.sleep(0.2)  # the other direction stays open however long it takes
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert receive_all(near) == b"answer"


@FAMILIES
def test_simultaneous_close_is_clean_on_both_sides(way: Way, family: int) -> None:
    for _ in range(20):
        near, far = tcp.pair(way.app, way.lab.target, TARGET[family])
        with near, far:
            near.shutdown(socket.SHUT_WR)
            far.shutdown(socket.SHUT_WR)
            assert receive_all(near) == b""
            assert receive_all(far) == b""


def assert_reset(way: Way, stream: socket.socket) -> None:
    """A plain sshd does not tell: a reset arrives as an end of data (SECURITY.md, L14)."""
    stream.settimeout(10)
    if way.is_ours:
        with pytest.raises(ConnectionResetError):
            stream.recv(1)
    else:
        assert stream.recv(1) == b""


@pytest.mark.fidelity("RST (not FIN) passed on after open")
@pytest.mark.fidelity("RST (not FIN) passed on after open", over="sshd", cell="○ sshd tells an end")
@pytest.mark.parametrize("resets", ["far end", "application"])
@FAMILIES
def test_reset_arrives_as_reset(way: Way, family: int, resets: str) -> None:
    near, far = tcp.pair(way.app, way.lab.target, TARGET[family])
    resetting, reading = (far, near) if resets == "far end" else (near, far)
    with reading:
        tcp.reset(resetting)
        assert_reset(way, reading)


@FAMILIES
def test_close_with_unread_data_arrives_as_reset(way: Way, family: int) -> None:
    near, far = tcp.pair(way.app, way.lab.target, TARGET[family])
    with near:
        near.sendall(b"nobody will read this")
        until(lambda: len(far.recv(99, socket.MSG_PEEK)) > 0, 15, "the data to arrive")
        far.close()
        assert_reset(way, near)
