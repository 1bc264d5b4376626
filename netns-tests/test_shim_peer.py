"""S1: the shim as a service serves whom the policy names, and does not read a byte of anybody else.

app: alice's client ── /run/overlay-vpn/shim.sock ── launcher ── monitor
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, kill, services, state, tcp, until
from lab.activation import POLICY, SERVICE_UID, SOCKET, serve, write_policy
from lab.addresses import TARGET
from lab.overlay import PROGRAM, Endpoint, Overlay

# Says bytes that are no message, and what it hears. The kernel says whether a peer has closed with
# something unread, or before anything could be sent (unix(7)).
WRONG = f"""
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.settimeout(20)
    sock.connect({SOCKET!r})
    errors, heard = [], []
    try:
        sock.send(b"not a message")
    except BrokenPipeError:
        errors = ["closed"]
    while not heard or heard[-1]:
        try:
            heard.append(sock.recv(64))
        except ConnectionResetError:
            errors.append("unread")
    print(*errors, *heard)
"""
REFUSED = r"(unread|closed) b'\\x93\\xa6failed\\xa6policy\\x00' b''\n"


@pytest.fixture(autouse=True)
def service_and_policy(lab: Lab) -> Iterator[None]:
    if not lab.is_multi_user:
        pytest.skip("needs other users")
    policy = lab.app.path(POLICY)
    policy.parent.mkdir()
    yield
    policy.unlink(missing_ok=True)
    policy.parent.rmdir()


def up(lab: Lab, overlay: Overlay, endpoint: Endpoint, *options: str) -> str:
    """Alice's `up`, without any help of root; returns what it says on standard error."""
    done = lab.app.run(overlay.up_command(endpoint, *options), user=lab.alice, check=False)
    overlay.is_up = done.returncode == 0
    return f"{done.returncode} {done.stderr}"


def as_alice(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.app.run([PROGRAM, *words], user=lab.alice, check=False)


def monitor(lab: Lab) -> int:
    (found,) = [one.pid for one in lab.app.processes() if "shim.monitor" in one.command]
    return found


@pytest.mark.parametrize("uid", [0, SERVICE_UID], ids=["as root", "as a user with CAP_NET_ADMIN"])
def test_user_of_the_policy_needs_no_root(lab: Lab, overlay: Overlay, uid: int) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    write_policy(lab, users=[lab.alice.name])
    service = serve(lab, uid)
    before = state.snapshot(lab.app)
    endpoint = overlay.serve()
    for _ in range(2):  # it is started again for the next
        assert up(lab, overlay, endpoint) == "0 "
        assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
        assert as_alice(lab, "status").stdout.startswith("connected\n")
        for pid in (monitor(lab), *(one.pid for one in lab.app.processes())):
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        assert as_alice(lab, "down").returncode == 0
        overlay.is_up = False
        service.says(r"(?s)ended 0(?!.*ended [^0])")
        until(lambda: not state.diff(before, state.snapshot(lab.app)), 15, "nothing left")


def test_what_a_killed_service_leaves_is_undone_by_its_next_start(
    lab: Lab, overlay: Overlay
) -> None:
    write_policy(lab, groups=[lab.alice.gid])
    serve(lab, SERVICE_UID)
    before = state.snapshot(lab.app)
    assert up(lab, overlay, overlay.serve()) == "0 "
    killed = {one.pid for one in lab.app.processes() if "shim." in one.command}
    kill(killed)
    until(lambda: not state.diff(before, state.snapshot(lab.app)), 20, "nothing left")
    assert not killed & {one.pid for one in lab.app.processes()}
    overlay.recover()
    assert not state.diff(before, state.snapshot(lab.app))


def test_wrong_peer_is_not_read(lab: Lab) -> None:
    """None is in the policy: another user, root of a user namespace, nobody."""
    write_policy(lab, users=[lab.service.uid])
    service = serve(lab)
    inside = ["unshare", "--user", "--map-root-user"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    python = [os.path.join(os.path.dirname(PROGRAM), "python3"), "-c", WRONG]
    said = [
        lab.app.run(python, user=lab.alice).stdout,
        lab.app.run([*inside, *python], user=lab.alice).stdout,
        lab.app.run([*nobody, *python]).stdout,
    ]
    assert [bool(re.fullmatch(REFUSED, one)) for one in said] == [True] * 3, said
    assert said[0].startswith("unread")  # nobody had been there before it
    assert "ended" not in service.stdout  # who is turned away does not use up starts


def test_peer_whom_our_user_namespace_does_not_know_is_not_read(lab: Lab) -> None:
    """The service itself is in a user namespace; even a policy that names the overflow user."""
    write_policy(lab, users=[65534], groups=[65534])
    serve(lab, wrapper=["unshare", "--user", "--map-root-user"])
    python = [os.path.join(os.path.dirname(PROGRAM), "python3"), "-c", WRONG]
    assert re.fullmatch(REFUSED, lab.app.run(python, user=lab.alice).stdout)


def test_second_client_is_told_busy_and_not_read(lab: Lab, overlay: Overlay) -> None:
    write_policy(lab, users=[lab.alice.uid, lab.service.uid])
    serve(lab)
    endpoint = overlay.serve()
    assert up(lab, overlay, endpoint) == "0 "
    python = [os.path.join(os.path.dirname(PROGRAM), "python3"), "-c", WRONG]
    for user in (lab.alice, lab.service):
        said = lab.app.run(python, user=user).stdout
        assert re.fullmatch(REFUSED.replace("policy", "busy").replace("xa6b", "xa4b"), said), said
    second = up(lab, overlay, endpoint)
    assert second.startswith("1 overlay-vpn: overlay-vpn is already up here;")
    assert as_alice(lab, "status").stdout.startswith("connected\n")
    assert as_alice(lab, "down").returncode == 0


def test_what_is_said_to_who_may_not(lab: Lab, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    assert re.match("77 .* needs root.*sudo.*service install shim", up(lab, overlay, endpoint))
    service = serve(lab)
    for policy in (None, write_policy(lab, users=[lab.service.uid])):
        line = up(lab, overlay, endpoint)
        assert re.fullmatch(f"77 overlay-vpn: .* policy .*{POLICY}.* sudo\n", line), (policy, line)
    lab.app.path(SOCKET).chmod(0o600)
    assert re.fullmatch(
        "77 overlay-vpn: .*shim.sock is not open to you.*\n", up(lab, overlay, endpoint)
    )
    assert service.is_alive


def test_policy_that_others_may_write_admits_nobody(lab: Lab, overlay: Overlay) -> None:
    write_policy(lab, users=[lab.alice.uid]).chmod(0o666)
    service = serve(lab)
    assert up(lab, overlay, overlay.serve()).startswith("77 ")
    service.says("^ended 78$")
    assert f"overlay-vpn: {POLICY} must be a file of root" in service.stderr


def test_routes_of_the_policy_are_the_most_there_is(lab: Lab, overlay: Overlay) -> None:
    write_policy(lab, users=[lab.alice.uid], routes=["203.0.113.0/24"])
    serve(lab)
    endpoint = overlay.serve()
    for options in (
        (),
        ("--kill-switch",),
        ("--route", "203.0.112.0/23"),
        ("--route", "a.example"),
    ):
        assert re.match("77 .* policy of this machine", up(lab, overlay, endpoint, *options))
    assert up(lab, overlay, endpoint, "--route", "203.0.113.0/25") == "0 "
    assert as_alice(lab, "down").returncode == 0
