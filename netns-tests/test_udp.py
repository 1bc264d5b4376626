"""UDP through the tunnel: whole datagrams, the far end's errors, one port for all destinations.

app ──── router ──── server ──── target      the server has a socket for each of the application's

Over a plain sshd there is none: every datagram is refused at once, so that applications go on to
something that works.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from test_shim_process import instance

from lab import Lab, Program, services, udp, until
from lab.addresses import (
    ABSENT,
    CLOSED_PORT,
    FILTERED,
    NO_ROUTE,
    PROHIBITED,
    SERVER_INSIDE,
    TARGET,
    Dual,
)
from lab.overlay import PROGRAM, Overlay
from lab.ways import Way

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
OURS = pytest.mark.ways("up ours", "run ours")
SIZES = (0, 1, 512, 1100, 1252, 1452, 1500, 9000, 32768, udp.MAX_PAYLOAD)
REFUSED = {"ECONNREFUSED"}


@pytest.fixture(scope="module")
def echo(way: Way) -> Iterator[Program]:
    program = udp.echo(way.lab.target, *TARGET)
    yield program
    program.stop()


@pytest.mark.fidelity("UDP")
@OURS
@FAMILIES
def test_datagrams_of_every_size_come_back_whole(way: Way, echo: Program, family: int) -> None:
    with udp.connect(way.app, TARGET[family], udp.ECHO_PORT) as sock:
        for size in SIZES:
            payload = os.urandom(size)
            assert udp.exchange(sock, payload) == payload
    told = {line.split()[-1] for line in echo.stdout.splitlines()}
    assert {*map(str, SIZES)} <= told


@OURS
@FAMILIES
def test_name_answers_from_the_address_that_it_has_here(
    way: Way, echo: Program, family: int
) -> None:
    rtype = ("A", "AAAA")[family]
    (address,) = way.app.run(["dig", "+short", "www.example.com", rtype]).stdout.split()
    assert address not in TARGET
    with udp.open_socket(way.app, family=(socket.AF_INET, socket.AF_INET6)[family]) as sock:
        sock.sendto(b"you?", (address, udp.ECHO_PORT))
        answer, peer = sock.recvfrom(100)
    assert (answer, peer[0]) == (b"you?", address)


FATES = {
    "closed": (TARGET, CLOSED_PORT, REFUSED),
    "absent": (ABSENT, 7, {"EHOSTUNREACH"}),
    "no route": (NO_ROUTE, 7, {"ENETUNREACH"}),
    "prohibited": (PROHIBITED, 7, {"EHOSTUNREACH", "EACCES"}),
    "filtered": (FILTERED, 7, {"silence"}),
}


@pytest.mark.fidelity("UDP", over="sshd", cell="◐ refused at once")
@FAMILIES
@pytest.mark.parametrize(("place", "port", "expected"), FATES.values(), ids=FATES)
def test_what_does_not_arrive_fails_as_at_the_far_end(
    way: Way, family: int, place: Dual, port: int, expected: set[str]
) -> None:
    timeout_s = 2.0 if place is FILTERED else 10.0
    assert udp.outcome(way.lab.server, place[family], port, timeout_s) in expected
    here = udp.outcome(way.app, place[family], port, timeout_s)
    assert here in (expected if way.is_ours else REFUSED)


@OURS
@FAMILIES
def test_one_socket_has_one_port_and_hears_whoever_sends_to_it(way: Way, family: int) -> None:
    """Endpoint-independent mapping and filtering (RFC 4787, sections 4.1 and 5)."""
    places = (TARGET[family], PROHIBITED[family])  # both of the target
    target, server = way.lab.target, way.lab.server
    with (
        udp.open_socket(way.app, family=(socket.AF_INET, socket.AF_INET6)[family]) as sock,
        udp.open_socket(target, places[0], port=4000) as first,
        udp.open_socket(server, SERVER_INSIDE[family]) as third,
    ):
        sock.sendto(b"hello", (places[0], 4000))
        _, mapped = first.recvfrom(100)
        assert mapped[0] == SERVER_INSIDE[family]
        with udp.open_socket(target, places[0], port=4001) as second:
            sock.sendto(b"hello", (places[0], 4001))
            assert second.recvfrom(100)[1][:2] == mapped[:2]
        third.sendto(b"from a stranger", mapped[:2])
        answer, peer = sock.recvfrom(100)
        assert (answer, peer[:2]) == (b"from a stranger", third.getsockname()[:2])


@pytest.mark.ways("up ours")
def test_gate_that_was_killed_is_followed_by_one_that_carries_on(way: Way, echo: Program) -> None:
    gate = instance(way.overlay.status()["pid"]).gate
    with udp.connect(way.app, TARGET.v4, udp.ECHO_PORT) as sock:
        assert udp.exchange(sock, b"before") == b"before"
        os.kill(gate, signal.SIGKILL)

        def is_answered() -> bool:
            try:
                return udp.exchange(sock, b"after") == b"after"
            except OSError:
                return False

        until(is_answered, 30, "an answer through the next gate")


FORWARDING = f'restrict,port-forwarding,permitopen="{TARGET.v4}:7",permitopen="[{TARGET.v6}]:7"'


def test_port_that_the_server_does_not_permit_is_refused(lab: Lab, overlay: Overlay) -> None:
    public = overlay.identity.with_suffix(".pub").read_text()
    overlay.authorized_keys.write_text(f"{FORWARDING} {public}")
    udp.echo(lab.target, *TARGET)
    overlay.up(overlay.serve(), "--dns", "virtual")
    for address in TARGET:
        with udp.open_socket(lab.target, address, port=8):
            assert udp.outcome(lab.app, address, 7) == "answered"
            assert udp.outcome(lab.app, address, 8) in REFUSED


def test_address_that_a_rule_denies_is_refused_and_not_asked(lab: Lab, overlay: Overlay) -> None:
    echo = udp.echo(lab.target, *TARGET)
    endpoint = overlay.serve()
    words = [endpoint.target, *endpoint.pin, "-i", overlay.identity, "--deny", TARGET.v4]
    script = f"echo | nc -nvu -w 5 {TARGET.v4} 7; echo hello | nc -nu -w 10 {TARGET.v6} 7"
    argv = [PROGRAM, "run", *words, "--", "sh", "-c", script]
    assert lab.app.run(argv, user=lab.alice, check=False).stdout == "hello\n"
    assert "203.0.113" not in echo.stdout


@pytest.mark.parametrize("carried", ["stream", "datagram"])
def test_it_is_carried_as_it_was_asked_for(lab: Lab, overlay: Overlay, carried: str) -> None:
    """Whatever carries it: the same datagrams. What does not fit a datagram goes in the stream."""
    udp.echo(lab.target, *TARGET)
    overlay.up(overlay.serve(), "--dns", "virtual", "--udp", carried)
    for address in TARGET:
        with udp.connect(lab.app, address, udp.ECHO_PORT) as sock:
            for size in (0, 1, 1000, 1400, udp.MAX_PAYLOAD):
                payload = os.urandom(size)
                assert udp.exchange(sock, payload) == payload


def test_flood_does_not_hold_up_a_connection(lab: Lab, overlay: Overlay) -> None:
    """What does not fit is lost, as on any wire; a connection beside it goes on."""
    services.iperf3(lab.target)
    web = services.web(lab, lab.target)
    (web.root / "some").write_bytes(bytes(2_000_000))
    overlay.up(overlay.serve(), "--dns", "virtual")
    flood = ["iperf3", "-u", "-c", TARGET.v4, "-b", "1G", "-t", "60", "-l", "1200"]
    flooding = lab.app.popen([*flood, "--forceflush", "-i", "1"])
    flooding.says(r"sec ", timeout_s=20)
    fetch = ["curl", "-sS", "--max-time", "40", "-o", "/dev/null", "-w", "%{size_download}"]
    assert lab.app.run([*fetch, f"http://{TARGET.v4}/some"], timeout=45).stdout == "2000000"
    assert flooding.is_alive
    flooding.stop()
