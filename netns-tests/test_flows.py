"""`flows` shows what goes through the tunnel to its user and to nobody else, and ends one of it.

app ──── router ──── server ──── target      a connection by name and one by address
"""

from __future__ import annotations

import errno
import json
import select
import socket
from typing import Any

import pytest

from lab import Lab, services, tcp, until
from lab.addresses import FILTERED, TARGET
from lab.overlay import PROGRAM, Overlay

ECHO = 7001


def flows(overlay: Overlay, *options: str) -> list[dict[str, Any]]:
    document = json.loads(overlay.cli("flows", "--json", *options).stdout)
    assert document["schema"] == 1
    return list(document["flows"])


def virtual(lab: Lab, name: str) -> str:
    return lab.app.run(["getent", "ahostsv4", name]).stdout.split()[0]


def test_live_flows_are_listed_and_one_of_them_is_killed(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    overlay.up(overlay.serve())
    assert flows(overlay) == []
    with (
        tcp.connect(lab.app, virtual(lab, "www.example.com"), ECHO) as by_name,
        tcp.listen(lab.target, TARGET.v6) as listener,
        tcp.connect(lab.app, TARGET.v6, listener.getsockname()[1]) as by_address,
        listener.accept()[0] as far,
    ):
        by_name.sendall(b"question")
        assert by_name.recv(64) == b"question"
        one, two = until(lambda: both_open(overlay), 10, "two open flows")
        assert (one["destination"], one["destination_port"]) == ("www.example.com", ECHO)
        assert (one["source"], one["source_port"]) == by_name.getsockname()
        assert (one["protocol"], one["exit"]) == ("tcp", "server")
        assert (one["bytes_up"], one["bytes_down"]) == (8, 8)
        assert (two["destination"], two["destination_port"]) == far.getsockname()[:2]
        assert (two["source"], two["source_port"]) == by_address.getsockname()[:2]
        head, line, _ = overlay.cli("flows").stdout.splitlines()
        assert head.split()[:4] == ["ID", "PROTO", "SOURCE", "DESTINATION"]
        assert line.split()[0] == one["id"]
        assert line.split()[3] == f"www.example.com:{ECHO}"
        assert_for_its_user_only(lab, one["id"])

        overlay.cli("flows", "--kill", two["id"])
        for end in (by_address, far):
            end.settimeout(10)
            with pytest.raises(ConnectionResetError):
                end.recv(64)
        until(lambda: len(flows(overlay)) == 1, 10, "the end of the flow")
        again = overlay.cli("flows", "--kill", two["id"], check=False)
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == (
            f"overlay-vpn: there is no flow '{two['id']}'; see 'overlay-vpn flows'\n"
        )
        by_name.sendall(b"still here")
        assert by_name.recv(64) == b"still here"


def assert_for_its_user_only(lab: Lab, flow: str) -> None:
    if lab.is_multi_user:
        for words in (("flows",), ("flows", "--kill", flow)):
            other = lab.app.run([PROGRAM, *words], user=lab.service, check=False)
            assert (other.returncode, other.stdout) == (77, "")
            assert "belongs to another user" in other.stderr
        assert "www.example.com" in lab.app.run([PROGRAM, "flows"], user=lab.alice).stdout


def both_open(overlay: Overlay) -> list[dict[str, Any]]:
    found = flows(overlay)
    return found if [one["state"] for one in found] == ["open", "open"] else []


def state(overlay: Overlay) -> str:
    (one,) = flows(overlay)
    return str(one["state"])


def test_flow_is_shown_while_it_opens_and_while_it_ends(lab: Lab, overlay: Overlay) -> None:
    """One that is killed while it is opening is refused."""
    overlay.up(overlay.serve())
    near, far = tcp.pair(lab.app, lab.target, TARGET.v4)
    with near, far:
        far.shutdown(socket.SHUT_WR)
        until(lambda: state(overlay) == "half-closed-remote", 10, "the end of its data")
        near.shutdown(socket.SHUT_WR)
        until(lambda: flows(overlay) == [], 10, "the end of the flow")
    with lab.app.call(socket.socket) as near:
        near.setblocking(False)
        near.connect_ex((FILTERED.v4, 80))
        (one,) = until(lambda: flows(overlay), 10, "a flow that is opening")
        assert (one["state"], one["destination"]) == ("opening", FILTERED.v4)
        overlay.cli("flows", "--kill", one["id"])
        until(lambda: select.select([], [near], [], 0.2)[1], 15, "the refusal")
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_nothing_up_is_one_line(overlay: Overlay) -> None:
    done = overlay.cli("flows", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "overlay-vpn: overlay-vpn is not up here; see 'overlay-vpn status'\n"


def test_flows_of_a_run_are_found_by_its_name(lab: Lab, overlay: Overlay) -> None:
    tcp.serve(lab.target, "echo", TARGET.v4, ECHO)
    endpoint = overlay.serve()
    hold = f"import socket; s = socket.create_connection(('{TARGET.v4}', {ECHO}))\n"
    hold += "s.send(b'x'); s.recv(1); print('ready', flush=True); s.recv(1)"
    words = (PROGRAM, "run", endpoint.target, *endpoint.pin, "-i", str(overlay.identity))
    program = lab.app.popen([*words, "--", "python3", "-c", hold], user=lab.alice)
    program.says("^ready$", timeout_s=30)

    def cli(*arguments: str, check: bool = True) -> str:
        done = lab.app.run([PROGRAM, *arguments], user=lab.alice, check=check)
        return done.stdout + done.stderr

    run_id = cli("list").split()[0]
    (one,) = json.loads(cli("flows", "--run", run_id, "--json"))["flows"]
    assert (one["destination"], one["destination_port"]) == (TARGET.v4, ECHO)
    assert "not up here" in cli("flows", check=False)
    assert "no run 'none'" in cli("flows", "--run", "none", check=False)
    cli("flows", "--run", run_id, "--kill", one["id"])
    assert program.wait() == 1
    assert "ConnectionResetError" in program.stderr
