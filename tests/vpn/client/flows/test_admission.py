"""Admission: every obstacle in its turn, and every spelling of every kind of loopback."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from shim.protocol import GATEWAY4, GATEWAY6
from vpn.client.flows.admission import (
    Admission,
    Destination,
    FarEnd,
    Limits,
    Obstacle,
    TransportProtocol,
    admit,
    admit_name,
    exit_of,
)
from vpn.policy.rules import DEFAULT, NO_DESTINATION, Action, Decision, Policy, parse_rule
from vpn.protocol.failure import Failure, OpenFailed

A, MX, AAAA = 1, 15, 28
NOW = 1_700_000_000.5
UP = FarEnd(is_up=True, is_overlay_server=True)
ANOTHER_SSHD = FarEnd(is_up=True, is_overlay_server=False)
AWAY = FarEnd(is_up=False, is_overlay_server=True)
PROTOCOLS: tuple[TransportProtocol, ...] = get_args(TransportProtocol)


def rules(*texts: str) -> Policy:
    """Rules as on the command line: `+name` allows, `-name` denies."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return Policy([parse_rule(actions[text[0]], text[1:]) for text in texts])


def destination(host: str, protocol: TransportProtocol = "tcp", port: int = 80) -> Destination:
    return Destination(protocol, host, 0 if protocol == "icmp" else port)


def obstacle(
    host: str,
    protocol: TransportProtocol = "tcp",
    limits: Limits | None = None,
    far_end: FarEnd = UP,
) -> Obstacle | None:
    return admit(limits or Limits(), far_end, destination(host, protocol), NOW).obstacle


def test_without_rules_everything_leaves_under_the_name_that_was_asked_for() -> None:
    wanted = destination("www.example.com", port=443)
    assert admit(Limits(), UP, wanted, NOW) == Admission(
        destination=wanted,
        decision=Decision(True, DEFAULT),
        exit="server",
        host="www.example.com",
        port=443,
        obstacle=None,
        time_s=NOW,
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rule_that_denies_comes_before_every_other_obstacle(protocol: TransportProtocol) -> None:
    limits = Limits(rules("-*"), {"db.example": (GATEWAY4, 0)})
    for host in ("db.example", GATEWAY4, "echo.overlay-vpn.internal", "www.example"):
        found = admit(limits, AWAY, destination(host, protocol), NOW)
        assert (found.obstacle, found.decision.rule_text) == (Obstacle.RULE, "*")


def test_rule_for_a_port_is_about_that_port_and_never_about_ping() -> None:
    limits = Limits(rules("+www.example:80"))
    assert obstacle("www.example", "tcp", limits) is None
    assert obstacle("www.example", "udp", limits) is None
    assert obstacle("www.example", "icmp", limits) is Obstacle.RULE
    assert admit(limits, UP, destination("www.example", port=81), NOW).is_forbidden


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        (destination("db.example", port=1), ("10.0.0.5", 5432)),
        (destination("web.example", port=80), ("10.0.0.6", 80)),
        (destination("web.example", "udp", 53), ("10.0.0.6", 53)),
        (destination("web.example", "icmp"), ("10.0.0.6", 0)),
        (destination("other.example", port=80), ("other.example", 80)),
    ],
)
def test_static_name_goes_to_its_address_and_its_port_if_it_has_one(
    wanted: Destination, placed: tuple[str, int]
) -> None:
    hosts = {"db.example": ("10.0.0.5", 5432), "web.example": ("10.0.0.6", 0)}
    found = admit(Limits(hosts=hosts), UP, wanted, NOW)
    assert (found.host, found.port) == placed
    assert found.obstacle is None


def test_rules_speak_of_the_static_name_and_of_the_port_that_was_asked_for() -> None:
    limits = Limits(rules("-10.0.0.0/8", "-*:5432"), {"db.example": ("10.0.0.5", 5432)})
    assert obstacle("db.example", limits=limits) is None
    assert obstacle("10.0.0.5", limits=limits) is Obstacle.RULE
    found = admit(limits, UP, destination("db.example", port=5432), NOW)
    assert found.obstacle is Obstacle.RULE


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("host", ["echo.overlay-vpn.internal", "X.Overlay-VPN.Internal."])
def test_services_of_our_own_server_are_no_destinations(
    host: str, protocol: TransportProtocol
) -> None:
    limits = Limits(hosts={host: (GATEWAY4, 0)}, host_loopback=True)
    assert obstacle(host, protocol, limits, AWAY) is Obstacle.RESERVED
    assert obstacle("overlay-vpn.internal.example", protocol) is None


REFUSED = (Obstacle.LOOPBACK, "loopback")
REACHED = (None, "loopback")
FAR = (None, "server")
NOWHERE = (Obstacle.RULE, "server")

LOOPBACKS = [
    # Of this machine: the addresses of the gate, as the gate spells them.
    (GATEWAY4, REFUSED, REACHED),
    (GATEWAY6, REFUSED, REACHED),
    # Any other spelling of them is an address like others, of the far end.
    ("::ffff:198.18.0.1", FAR, FAR),
    ("::ffff:c612:1", FAR, FAR),
    ("::198.18.0.1", FAR, FAR),
    ("fd6f:7670:6e00:0:0:0:0:1", FAR, FAR),
    ("FD6F:7670:6E00::1", FAR, FAR),
    (f"{GATEWAY6}%ovpn0", FAR, FAR),
    (f"{GATEWAY4}.", NOWHERE, NOWHERE),
    # Of the far end: what loopback means there is the server's to judge.
    ("127.0.0.1", FAR, FAR),
    ("127.255.255.254", FAR, FAR),
    ("::1", FAR, FAR),
    ("0:0:0:0:0:0:0:1", FAR, FAR),
    ("::1%lo", FAR, FAR),
    ("::ffff:127.0.0.1", FAR, FAR),
    ("::ffff:7f00:1", FAR, FAR),
    ("::127.0.0.1", FAR, FAR),
    ("64:ff9b::127.0.0.1", FAR, FAR),
    ("localhost", FAR, FAR),
    # The unspecified address, to which Linux connects as to loopback.
    ("0.0.0.0", NOWHERE, NOWHERE),
    ("::", NOWHERE, NOWHERE),
    ("0::0", NOWHERE, NOWHERE),
    ("::%lo", NOWHERE, NOWHERE),
    ("::ffff:0.0.0.0", NOWHERE, NOWHERE),
    ("::0.0.0.0", NOWHERE, NOWHERE),
    # Spellings of inet_aton(3).
    ("0", NOWHERE, NOWHERE),
    ("127.1", NOWHERE, NOWHERE),
    ("0x7f.1", NOWHERE, NOWHERE),
    ("0177.0.0.1", NOWHERE, NOWHERE),
    ("2130706433", NOWHERE, NOWHERE),
    ("198.18.1", NOWHERE, NOWHERE),
]


@pytest.mark.parametrize(("host", "closed", "opened"), LOOPBACKS)
def test_loopback_in_every_spelling(
    host: str, closed: tuple[Obstacle | None, str], opened: tuple[Obstacle | None, str]
) -> None:
    for host_loopback, expected in ((False, closed), (True, opened)):
        limits = Limits(host_loopback=host_loopback)
        found = admit(limits, UP, destination(host), NOW)
        assert (found.obstacle, found.exit) == expected
        assert found.host == host
        if expected is NOWHERE:
            assert found.decision.rule_text == NO_DESTINATION


@pytest.mark.parametrize("host", [GATEWAY4, GATEWAY6, "host.example"])
@pytest.mark.parametrize("host_loopback", [False, True])
def test_loopback_of_this_machine_is_for_connections_and_answers_ping(
    host: str, host_loopback: bool
) -> None:
    limits = Limits(hosts={"host.example": (GATEWAY4, 8080)}, host_loopback=host_loopback)
    assert obstacle(host, "tcp", limits, AWAY) is (None if host_loopback else Obstacle.LOOPBACK)
    assert obstacle(host, "udp", limits, AWAY) is Obstacle.LOOPBACK
    assert obstacle(host, "icmp", limits, AWAY) is None
    assert exit_of(limits, host) == "loopback"
    assert exit_of(limits, "www.example") == "server"


@pytest.mark.parametrize(
    ("protocol", "far_end", "expected"),
    [
        *((protocol, UP, None) for protocol in PROTOCOLS),
        *((protocol, AWAY, Obstacle.SESSION) for protocol in PROTOCOLS),
        ("tcp", ANOTHER_SSHD, None),
        ("udp", ANOTHER_SSHD, Obstacle.SERVICE),
        ("icmp", ANOTHER_SSHD, Obstacle.SERVICE),
        ("udp", replace(ANOTHER_SSHD, is_up=False), Obstacle.SESSION),
    ],
)
def test_far_end_has_to_be_there_and_to_have_the_service(
    protocol: TransportProtocol, far_end: FarEnd, expected: Obstacle | None
) -> None:
    assert obstacle("www.example", protocol, far_end=far_end) is expected


def test_obstacles_of_the_rules_last_and_those_of_the_session_do_not() -> None:
    admitted = admit(Limits(), UP, destination("www.example"), NOW)
    assert not admitted.is_forbidden
    admitted.require()
    lasting = {one for one in Obstacle if replace(admitted, obstacle=one).is_forbidden}
    assert lasting == {Obstacle.RULE, Obstacle.RESERVED, Obstacle.LOOPBACK}


@pytest.mark.parametrize(
    ("obstacle", "failure", "detail"),
    [
        (Obstacle.RULE, Failure.POLICY, "*.example"),
        (Obstacle.RESERVED, Failure.NXDOMAIN, ""),
        (Obstacle.LOOPBACK, Failure.ECONNREFUSED, ""),
        (Obstacle.SESSION, Failure.UNAVAILABLE, "there is no session now"),
        (Obstacle.SERVICE, Failure.UNSUPPORTED, ""),
    ],
)
def test_obstacle_is_the_failure_that_an_application_learns_of(
    obstacle: Obstacle, failure: Failure, detail: str
) -> None:
    admitted = admit(Limits(rules("+*.example")), UP, destination("www.example"), NOW)
    assert admitted.failure is None
    refused = replace(admitted, obstacle=obstacle)
    assert refused.failure is failure
    with pytest.raises(OpenFailed) as failed:
        refused.require()
    assert (failed.value.failure, failed.value.detail) == (failure, detail)


def test_name_may_be_asked_about_if_any_port_of_it_is_allowed() -> None:
    limits = Limits(rules("+*.example.com:443"))
    for name, rtype in product(("www.example.com", "example.com"), (A, AAAA, MX)):
        assert admit_name(limits, name, rtype).allowed is (name == "www.example.com")


def test_name_of_no_host_has_records_but_no_addresses() -> None:
    for name in ("_ldap._tcp.example.com", "5.0.0.10.in-addr.arpa", "my\\032printer.example.com"):
        assert admit_name(Limits(), name, MX) == Decision(True, DEFAULT)
    assert admit_name(Limits(), "my\\032printer.example.com", A) == Decision(False, NO_DESTINATION)
    with pytest.raises(ValueError, match="not a name"):
        admit_name(Limits(), "a..b", MX)
