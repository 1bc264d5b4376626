"""A session that ends is renewed by itself, and nothing leaves beside the tunnel meanwhile.

app ──── router ──── server ──── target      the capture is on the router's link to the app
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace

import pytest
from test_run_leaks import ALWAYS_TRYING

from lab import Lab, Program, kill, rules, services, tcp, until
from lab.addresses import APP, CLOSED_PORT, ROUTER, SERVER, TARGET
from lab.capture import leaks
from lab.overlay import PROGRAM, Endpoint, Overlay
from lab.probes import PROBES

TRANSPORTS = pytest.mark.parametrize("transport", ["quic", "ssh"])
ECHO_PORT = 7
DEAD_AFTER_S = 15.0
LOCAL = {"multicast dns", "broadcast", "ethernet"}
"""Probes of the local network, which is reachable beside the tunnel."""


def serve(overlay: Overlay, transport: str) -> tuple[Endpoint, tuple[str, ...]]:
    """Return a server of ours or a stock sshd, and the options with which it is asked for names."""
    if transport == "quic":
        return overlay.serve(), ()
    return overlay.serve_ssh(), ("--dns-server", TARGET.v4)


def end(lab: Lab, endpoint: Endpoint) -> None:
    """End a server at once, with all its processes: sshd has one for each session.

    Ours waits for the flows to end until it is told again.
    """

    def has_ended() -> bool:
        if endpoint.program.is_alive:
            endpoint.program.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        return not endpoint.program.is_alive

    until(has_ended, 15, "the server to end")
    kill(one.pid for one in lab.server.processes())


def restart(lab: Lab, endpoint: Endpoint) -> Endpoint:
    """Start a server again as it was."""
    is_ours = endpoint.program.argv[0] == PROGRAM
    user = lab.service if is_ours else lab.root
    program = lab.server.popen(endpoint.program.argv, user=user)
    program.says("listening on|Server listening on")
    return replace(endpoint, program=program)


def flow(lab: Lab) -> socket.socket:
    """Return a connection through the tunnel to the echo server of the target, proven to work."""
    stream = tcp.connect(lab.app, TARGET.v4, ECHO_PORT)
    stream.sendall(b"ping")
    assert stream.recv(16) == b"ping"
    return stream


def is_reset(stream: socket.socket, timeout_s: float) -> bool:
    """Return whether a flow is reset in time; it is closed."""
    with stream:
        stream.settimeout(timeout_s)
        try:
            assert stream.recv(16) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            pass
        return False


def wait_for(overlay: Overlay, state: str, timeout_s: float) -> None:
    until(lambda: overlay.status()["state"] == state, timeout_s, state)


def assert_works(lab: Lab) -> None:
    """New flows and names work again, IPv4 and IPv6."""
    flow(lab).close()
    assert tcp.outcome(lab.app, TARGET.v6, ECHO_PORT) == "connected"
    missing = lab.app.run(["dig", "+noall", "+comments", "nothing.example.com"]).stdout
    assert "status: NXDOMAIN" in missing


def fails_within_s(lab: Lab, address: str) -> float:
    started_s = time.monotonic()
    assert tcp.outcome(lab.app, address, ECHO_PORT) == "ENETUNREACH"
    return time.monotonic() - started_s


def assert_fails_fast(lab: Lab) -> None:
    """Without a session a flow is unreachable at once, and a name a failure that says why."""
    for address in TARGET:
        assert any(fails_within_s(lab, address) < 2 for _ in range(3))  # see `tcp.outcome`
    answer = lab.app.run(["dig", "+noall", "+comments", "www.example.com"]).stdout
    assert "status: SERVFAIL" in answer
    assert "EDE: 23" in answer


@pytest.fixture
def echo(lab: Lab) -> Program:
    services.names(lab.target)
    tcp.serve(lab.target, "echo", TARGET.v6, ECHO_PORT)
    return tcp.serve(lab.target, "echo", TARGET.v4, ECHO_PORT)


@pytest.mark.parametrize(
    ("transport", "more"), [("quic", ()), ("quic", ("--kill-switch",)), ("ssh", ())]
)
def test_server_that_restarts(
    lab: Lab, overlay: Overlay, echo: Program, transport: str, more: tuple[str, ...]
) -> None:
    """Known by a name, which nobody outside is asked for any more."""
    services.names(lab.router, f"vpn.example.net. 60 IN A {SERVER.v4}\n")
    endpoint, options = serve(overlay, transport)
    named = endpoint.target.replace(SERVER.v4, "vpn.example.net")
    known = overlay.identity.with_name("known_hosts")
    if known.exists():
        known.write_text(known.read_text().replace(SERVER.v4, f"{SERVER.v4},vpn.example.net"))
    overlay.up(replace(endpoint, target=named), *options, *more)
    pid = overlay.status()["pid"]
    stream = flow(lab)
    before = len(lab.outer.packets())

    end(lab, endpoint)
    assert is_reset(stream, 5)
    wait_for(overlay, "reconnecting", 15)
    assert_fails_fast(lab)
    until(lambda: overlay.status()["attempts"] >= 2, 15, "a second try")
    shown = overlay.cli("status", check=False)
    assert shown.returncode == 1
    assert shown.stdout.startswith("reconnecting, ")
    assert "cannot reach vpn.example.net" in shown.stdout.splitlines()[0]
    for name in PROBES.keys() - LOCAL:
        lab.app.call(PROBES[name])
    assert_fails_fast(lab)

    restart(lab, endpoint)
    wait_for(overlay, "connected", 40)
    status = overlay.status()
    assert (status["pid"], status["attempts"], status["last_error"]) == (pid, 0, "")
    assert_works(lab)
    packets = lab.outer.packets()[before:]
    assert any(not leaks([one], []) for one in packets)
    assert leaks(packets, [endpoint.flow]) == []


def test_detector_sees_the_probes_when_there_is_no_tunnel(lab: Lab) -> None:
    for name in PROBES.keys() - LOCAL:
        before = len(leaks(lab.outer.packets(), []))
        lab.app.call(PROBES[name])
        until(lambda seen=before: len(leaks(lab.outer.packets(), [])) > seen, 15, name)


@TRANSPORTS
def test_server_that_falls_silent(
    lab: Lab, overlay: Overlay, echo: Program, transport: str
) -> None:
    """Half-open: the packets of both sides vanish between them, and nobody says so."""
    endpoint, options = serve(overlay, transport)
    overlay.up(endpoint, *options)
    stream = flow(lab)
    with rules.passing(lab.router, "drop"):
        started_s = time.monotonic()
        assert is_reset(stream, DEAD_AFTER_S + 5)
        assert time.monotonic() - started_s < DEAD_AFTER_S + 3
        wait_for(overlay, "reconnecting", 15)
        assert_fails_fast(lab)
    wait_for(overlay, "connected", 40)
    assert_works(lab)
    assert leaks(lab.outer.packets(), [endpoint.flow]) == []


def test_change_of_the_network_is_a_reason_to_ask_the_server(
    lab: Lab, overlay: Overlay, echo: Program
) -> None:
    overlay.up(overlay.serve())
    stream = flow(lab)
    with rules.passing(lab.router, "drop"):
        lab.app.run(["ip", "link", "add", "one", "type", "veth", "peer", "name", "other"])
        started_s = time.monotonic()
        assert is_reset(stream, DEAD_AFTER_S)
        assert time.monotonic() - started_s < DEAD_AFTER_S - 3
    lab.app.run(["ip", "link", "del", "one"])
    wait_for(overlay, "connected", 20)


@pytest.mark.timeout(300)
def test_network_that_comes_back_is_used_at_once(lab: Lab, overlay: Overlay, echo: Program) -> None:
    """However long the next try was away."""
    endpoint = overlay.serve()
    overlay.up(endpoint)
    lab.app.run(["ip", "link", "set", "eth0", "down"])
    end(lab, endpoint)
    # What it says on the way out does not arrive: the silence is noticed.
    wait_for(overlay, "reconnecting", DEAD_AFTER_S + 5)
    assert_fails_fast(lab)
    until(lambda: overlay.status()["retry_in_s"] >= 8, 150, "a long pause")
    endpoint = restart(lab, endpoint)
    lab.app.run(["ip", "-batch", "-"], stdin=_LINK_UP)
    wait_for(overlay, "connected", 7)
    assert_works(lab)
    assert leaks(lab.outer.packets(), [endpoint.flow]) == []


# Down takes the routes and the IPv6 address with it; a network manager would bring them back.
_LINK_UP = f"""
link set eth0 up
address add {APP.v6}/64 dev eth0 nodad
route add default via {ROUTER.v4}
route add default via {ROUTER.v6}
"""


def test_network_that_comes_back_soon_keeps_the_session(
    lab: Lab, overlay: Overlay, echo: Program
) -> None:
    overlay.up(overlay.serve())
    stream = flow(lab)
    lab.app.run(["ip", "link", "set", "eth0", "down"])
    lab.app.run(["ip", "-batch", "-"], stdin=_LINK_UP)
    stream.sendall(b"again")
    assert stream.recv(16) == b"again"
    stream.close()
    assert overlay.status()["state"] == "connected"


@pytest.mark.parametrize("trust", ["pin", "accept new"])
def test_server_that_comes_back_with_another_key_is_refused(
    lab: Lab, overlay: Overlay, trust: str
) -> None:
    """For good, and with the network as before."""
    endpoint = overlay.serve()
    if trust == "accept new":
        endpoint = replace(endpoint, pin=("--accept-new",))
    client = overlay.start(endpoint)
    end(lab, endpoint)
    for path in (overlay.server_key, overlay.server_key.with_suffix(".pub")):
        path.unlink(missing_ok=True)
    overlay.serve()
    assert client.wait(40) == 255
    lost, fatal = client.stderr.splitlines()
    assert lost.endswith("; reconnecting")
    assert ("not the pinned" if trust == "pin" else "has changed") in fatal
    assert tcp.outcome(lab.app, SERVER.v4, CLOSED_PORT) == "ECONNREFUSED"
    overlay.is_up = False
    lab.assert_clean()


def test_kill_switch_holds_when_the_session_cannot_be_renewed(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    client = overlay.start(endpoint, "--kill-switch", "--lan", "block")
    end(lab, endpoint)
    overlay.authorized_keys.write_text("")
    restart(lab, endpoint)
    assert client.wait(40) == 255
    assert "permission denied" in client.stderr.splitlines()[-1]
    assert overlay.status()["state"] == "blocked"
    for name in PROBES.keys() - {"ethernet"}:
        lab.app.call(PROBES[name])
    assert leaks(lab.outer.packets(), [endpoint.flow]) == []
    overlay.down()


def test_taken_down_while_reconnecting(lab: Lab, overlay: Overlay) -> None:
    """By `down` and by SIGTERM, between tries and while one waits for an answer."""
    endpoint = overlay.serve()
    for word in ("between", "trying"):
        client = overlay.start(endpoint)
        end(lab, endpoint)
        wait_for(overlay, "reconnecting", 15)
        if word == "trying":
            endpoint = restart(lab, endpoint)
            os.kill(endpoint.program.pid, signal.SIGSTOP)
        else:
            until(lambda: overlay.status()["attempts"] >= 1, 30, "a try")
        started_s = time.monotonic()
        if word == "trying":
            until(lambda: overlay.status()["retry_in_s"] == 0, 10, "a try")
            client.process.send_signal(signal.SIGTERM)
            assert client.wait(5) == 0
        else:
            overlay.down()
            assert client.wait(5) == 0
        assert time.monotonic() - started_s < 12
        if endpoint.program.is_alive:
            os.kill(endpoint.program.pid, signal.SIGKILL)
        until(lambda: overlay.status()["state"] == "down", 15, "nothing to be left")
        endpoint = restart(lab, endpoint)
    overlay.is_up = False


def test_command_of_run_has_its_network_again(lab: Lab, overlay: Overlay, echo: Program) -> None:
    services.web(lab, lab.target)
    endpoint = overlay.serve()
    words = (PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", overlay.identity, "--")
    runtime = lab.tmp / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, lab.alice.uid, lab.alice.gid)
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    argv = [*words, sys.executable, "-c", ALWAYS_TRYING, *TARGET]
    program = lab.app.popen(argv, user=lab.alice, env=env)
    program.says("^works 2$")
    end(lab, endpoint)
    program.says("^works 0$")
    program.says("the session ended: .*; reconnecting")
    restart(lab, endpoint)
    program.says("connected again", timeout_s=40)
    program.says(r"(?s)^works 0$.*^works 2$", timeout_s=10)
    assert leaks(lab.outer.packets(), [endpoint.flow]) == []
    program.stop()
