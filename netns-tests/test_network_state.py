"""With everything captured: the tunnel is not, logins from outside live on, and nothing is left.

app ──── router ──── server ──── target
 ▲ a login comes in from the router
"""

from __future__ import annotations

import pytest

from lab import Lab, services, state, tcp
from lab.addresses import APP, ROUTER, ROUTER_OUTSIDE, SERVER, TARGET
from lab.capture import leaks
from lab.overlay import Overlay

SHOWS = (
    ("ip", "rule"),
    ("ip", "-6", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("nft", "list", "ruleset"),
    ("cat", "/etc/resolv.conf"),
)


def shown(lab: Lab) -> dict[tuple[str, ...], str]:
    return {argv: lab.app.run(argv).stdout for argv in SHOWS}


@pytest.mark.fidelity("server itself auto-excluded")
@pytest.mark.lab(capture=True)
def test_only_the_tunnel_itself_leaves_the_machine(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    services.web(lab, lab.target)
    endpoint = overlay.serve()
    overlay.up(endpoint)
    for name in ("www", "v6only"):
        lab.app.run(["curl", "--silent", "--fail", f"http://{name}.example.com/"])
    lab.app.run(["dig", f"@{ROUTER.v4}", "+tcp", "www.example.com"])
    lab.app.run(["dig", f"@{TARGET.v6}", "www.example.com"])
    lab.app.run(["ping", "-c1", "-W1", TARGET.v4], check=False)
    packets = lab.outer.packets()
    assert any(not leaks([packet], [endpoint.flow]) for packet in packets)
    assert leaks(packets, [endpoint.flow]) == []


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_works_with_reverse_path_filter(rp_filter: int) -> None:
    with Lab(rp_filter=rp_filter) as lab:
        overlay = Overlay(lab)
        services.names(lab.target)
        services.web(lab, lab.target)
        services.sshd(lab, lab.app)
        services.client_key(lab, lab.root)
        before = shown(lab)
        login = lab.router.popen(["ssh", "-tt", APP.v4, "sleep 60"])
        overlay.up(overlay.serve())
        for address in TARGET:
            assert tcp.outcome(lab.app, address, 80) == "connected"
        lab.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
        for address in APP:
            assert lab.router.run(["ssh", address, "echo", "in"]).stdout == "in\n"
        assert login.is_alive
        overlay.down()
        assert shown(lab) == before
        login.stop()
        lab.assert_clean()


def test_login_from_outside_stays_alive_and_new_ones_come_in(lab: Lab, overlay: Overlay) -> None:
    """From the router and from beyond it: the answer does not go into the tunnel."""
    listener = tcp.listen(lab.app, "0.0.0.0", 2222)
    before = tcp.connect(lab.router, APP.v4, 2222)
    old, _ = listener.accept()
    overlay.up(overlay.serve())
    after = tcp.connect(lab.server, APP.v4, 2222)
    new, _ = listener.accept()
    for here, there in ((old, before), (new, after)):
        here.sendall(b"from the inside")
        assert there.recv(99) == b"from the inside"
        there.sendall(b"from the outside")
        assert here.recv(99) == b"from the outside"
        here.close()
        there.close()
    listener.close()


def test_down_leaves_everything_byte_identical(lab: Lab, overlay: Overlay) -> None:
    before = shown(lab)
    endpoint = overlay.serve()
    for options in ((), ("--route", "203.0.113.0/24", "--route", "example.com")):
        overlay.up(endpoint, *options)
        during = shown(lab)
        assert during[("ip", "rule")] != before[("ip", "rule")]
        assert during[("cat", "/etc/resolv.conf")] == before[("cat", "/etc/resolv.conf")]
        overlay.down()
        assert shown(lab) == before
        assert state.diff(lab.before[lab.app], state.snapshot(lab.app)) == []


def test_local_network_stays_reachable(lab: Lab, overlay: Overlay) -> None:
    overlay.up(overlay.serve())
    for address in ROUTER:
        assert tcp.outcome(lab.app, address, 9) == "ECONNREFUSED"
    # Not local: it goes through the tunnel, and the server reaches it as well.
    for address in (*ROUTER_OUTSIDE, *SERVER):
        assert tcp.outcome(lab.app, address, 9) == "ECONNREFUSED"


def test_machine_without_ipv6_works_with_ipv4(lab: Lab, overlay: Overlay) -> None:
    lab.app.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
    try:
        services.names(lab.target)
        services.web(lab, lab.target)
        overlay.up(overlay.serve())
        lab.app.run(["curl", "--silent", "--fail", "http://www.example.com/"])
        overlay.down()
    finally:
        lab.app.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0"])
