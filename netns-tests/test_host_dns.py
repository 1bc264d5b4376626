"""The resolver of the machine, where it is systemd-resolved, is told which names are the tunnel's.

    up ── resolved ──▶ message bus ──▶ org.freedesktop.resolve1, org.freedesktop.NetworkManager
          (no capability)             (stand-ins that write down what they are asked)

app ──── router ──── server ──── target
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, bus, services, until
from lab.bus import NETWORK_MANAGER, RESOLVED, Service
from lab.overlay import Overlay

GATEWAY = [198, 18, 0, 1]
OFF = ["SetLinkLLMNR", "SetLinkMulticastDNS", "SetLinkDNSOverTLS", "SetLinkDNSSEC"]
SET_UP = [*OFF, "SetLinkDefaultRoute", "SetLinkDomains", "SetLinkDNS", "FlushCaches"]


@pytest.fixture(autouse=True)
def _bus_leaves_nothing(lab: Lab, overlay: Overlay) -> Iterator[None]:
    yield
    try:
        if overlay.is_up:
            overlay.down()
        until(lambda: announcers(lab) == [], 15, "the announcer to be gone")
    finally:
        bus.stop(lab.app)


def resolves(lab: Lab) -> bool:
    return lab.app.run(["dig", "+short", "www.example.com"]).stdout.startswith("198.1")


def methods(service: Service) -> list[str]:
    return [method for method, _ in service.calls()]


def announcers(lab: Lab) -> list[int]:
    return [one.pid for one in lab.app.processes() if "shim.resolved" in one.command]


@pytest.mark.fidelity(
    "systemd-resolved per-link D-Bus", cell="◐ what resolved and NetworkManager are told"
)
def test_up_tells_resolved_and_network_manager_and_takes_it_back(
    lab: Lab, overlay: Overlay
) -> None:
    services.names(lab.target)
    bus.start(lab.app)
    resolved, manager = Service(lab.app, RESOLVED), Service(lab.app, NETWORK_MANAGER)
    overlay.up(overlay.serve())
    until(lambda: methods(resolved)[-8:] == SET_UP, 15, "resolved to be told")
    index = lab.app.call(socket.if_nametoindex, "ovpn0")
    assert resolved.calls() == [
        *((method, [index, "no"]) for method in OFF),
        ("SetLinkDefaultRoute", [index, True]),
        ("SetLinkDomains", [index, [[".", True]]]),
        ("SetLinkDNS", [index, [[2, GATEWAY]]]),
        ("FlushCaches", []),
    ]
    device = "org.freedesktop.NetworkManager.Device"
    assert manager.calls() == [
        ("GetDeviceByIpIface", ["ovpn0"]),
        ("Set", [device, "Managed", ["b", False]]),
    ]
    until(lambda: overlay.status()["warnings"] == [], 15, "no warning")
    assert resolves(lab)
    assert_announcer_has_no_rights(lab)
    overlay.cli("pause", "--for", "1h")
    until(lambda: methods(resolved)[-1:] == ["RevertLink"], 15, "resolved to be told of the pause")
    overlay.cli("pause", "--for", "0s")
    until(lambda: methods(resolved)[-8:] == SET_UP, 15, "resolved to be told of its end")
    overlay.down()
    until(lambda: methods(resolved)[-1:] == ["RevertLink"], 15, "resolved to be told of the end")
    assert resolved.calls()[-1] == ("RevertLink", [index])


def assert_announcer_has_no_rights(lab: Lab) -> None:
    (pid,) = announcers(lab)
    status = Path(f"/proc/{pid}/status").read_text()
    for line in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{line}:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    opened = (fd for fd in Path(f"/proc/{pid}/fd").iterdir() if int(fd.name) > 2)
    assert {os.readlink(fd).partition(":")[0] for fd in opened} == {"socket"}


def test_up_with_names_routes_their_domain_and_with_prefixes_none(
    lab: Lab, overlay: Overlay
) -> None:
    endpoint = overlay.serve()
    bus.start(lab.app)
    resolved = Service(lab.app, RESOLVED, "old")
    overlay.up(endpoint, "--route", "203.0.113.0/24")
    assert announcers(lab) == []
    overlay.down()
    assert resolved.calls() == []
    overlay.up(endpoint, "--route", "corp.example")
    until(lambda: "SetLinkDNS" in methods(resolved), 15, "resolved to be told")
    domains = {name for name, is_route_only in dict(resolved.calls())["SetLinkDomains"][1]}
    reverse = {"18.198.in-addr.arpa", "19.198.in-addr.arpa"}
    assert domains == {"corp.example", *reverse, "0.0.0.0.0.0.e.6.0.7.6.7.f.6.d.f.ip6.arpa"}
    assert dict(resolved.calls())["SetLinkDefaultRoute"][1] is False
    until(lambda: overlay.status()["warnings"] == [], 15, "no warning")


def test_refused_or_killed_it_takes_no_name_away(lab: Lab, overlay: Overlay) -> None:
    services.names(lab.target)
    bus.start(lab.app)
    resolved = Service(lab.app, RESOLVED, "refuse")
    Service(lab.app, NETWORK_MANAGER, "refuse")
    overlay.up(overlay.serve())
    until(lambda: len(overlay.status()["warnings"]) == 2, 15, "both refusals")
    warnings = overlay.status()["warnings"]
    for service, warning in zip(("systemd-resolved", "NetworkManager"), warnings, strict=True):
        assert f"{service} does not let us" in warning
        assert "InteractiveAuthorizationRequired" in warning
    assert methods(resolved) == ["SetLinkLLMNR", "RevertLink"]
    assert resolves(lab)
    (pid,) = announcers(lab)
    lab.app.run(["kill", "-KILL", str(pid)])
    until(lambda: announcers(lab) == [], 15, "it to be gone")
    assert resolves(lab)
    overlay.cli("pause", "--for", "1s")
    assert overlay.status()["state"] == "connected"


def test_bus_without_resolved_is_left_alone(lab: Lab, overlay: Overlay) -> None:
    bus.start(lab.app)
    other = Service(lab.app, "org.example.Other")
    overlay.up(overlay.serve())
    assert len(announcers(lab)) == 1
    assert overlay.status()["warnings"] == []
    assert other.calls() == []


@pytest.mark.parametrize("hanging", ["service", "bus"])
def test_what_hangs_delays_the_start_by_a_bound(lab: Lab, overlay: Overlay, hanging: str) -> None:
    services.names(lab.target)
    with socket.socket(socket.AF_UNIX) as deaf:
        if hanging == "service":
            bus.start(lab.app)
            Service(lab.app, RESOLVED, "silent")
        else:
            lab.app.run(["mkdir", "/run/dbus"])
            lab.app.call(deaf.bind, bus.ADDRESS)
            deaf.listen(8)
        endpoint = overlay.serve()
        began_s = time.monotonic()
        overlay.up(endpoint)
        assert time.monotonic() - began_s < 20
        (warning,) = overlay.status()["warnings"]
        assert "does not answer" in warning
        assert resolves(lab)
        overlay.down()
