"""What may leave: rules first, static names next, and what became of it in the report."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from unittest.mock import ANY

import pytest

from shim.protocol import GATEWAY4
from vpn.client.flows.admission import Destination, Limits, Obstacle
from vpn.client.flows.egress import Egress
from vpn.policy.report import Contact, Report
from vpn.policy.rules import Action, Policy, parse_rule
from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.pump import Pump


class Session:
    """Opens everything, or nothing."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self.opened: list[tuple[str, int]] = []

    async def open(self, host: str, port: int) -> Pump:
        self.opened.append((host, port))
        if self.failure is not None:
            raise OpenFailed(self.failure)
        return Pump()

    has_datagrams = False
    is_overlay_server = True

    @property
    def is_up(self) -> bool:
        return self.failure is not Failure.UNAVAILABLE

    async def open_service(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        self.opened.append((host, port))
        if self.failure is not None:
            raise OpenFailed(self.failure)


def rules(*texts: str) -> Policy:
    """Rules as on the command line: `+name` allows, `-name` denies."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return Policy([parse_rule(actions[text[0]], text[1:]) for text in texts])


def open_flow(egress: Egress, host: str, port: int) -> Failure | None:
    async def dialogue() -> Failure | None:
        try:
            await egress.open(host, port)
        except OpenFailed as failed:
            return failed.failure
        return None

    return asyncio.run(dialogue())


def contacts(report: Report) -> tuple[Contact, ...]:
    return report.document(start=0, end=1, target="t", command=(), exit_status=0).contacts


def test_without_rules_everything_is_opened_by_name() -> None:
    session = Session()
    assert open_flow(Egress(session, Limits()), "www.example.com", 443) is None
    assert session.opened == [("www.example.com", 443)]


def test_denied_is_never_asked_of_the_session() -> None:
    session, report = Session(), Report()
    egress = Egress(session, Limits(rules("-*.example.com")), report)
    assert open_flow(egress, "www.example.com", 443) is Failure.POLICY
    assert session.opened == []
    assert report.has_denied


def test_rule_for_a_port_opens_no_other_port() -> None:
    session = Session()
    egress = Egress(session, Limits(rules("+www.example.com:443")))
    assert open_flow(egress, "www.example.com", 443) is None
    assert open_flow(egress, "www.example.com", 80) is Failure.POLICY


def test_static_name_goes_to_its_address_and_port() -> None:
    session = Session()
    limits = Limits(hosts={"db.example": ("10.0.0.5", 5432), "web.example": ("10.0.0.6", 0)})
    egress = Egress(session, limits)
    assert open_flow(egress, "db.example", 1) is None
    assert open_flow(egress, "web.example", 80) is None
    assert session.opened == [("10.0.0.5", 5432), ("10.0.0.6", 80)]


def test_loopback_of_this_machine_is_refused_unless_asked_for() -> None:
    report = Report()
    egress = Egress(Session(), Limits(), report)
    assert open_flow(egress, GATEWAY4, 80) is Failure.ECONNREFUSED
    assert contacts(report)[0].outcomes["refused"] == 1
    assert (egress.exit_of(GATEWAY4), egress.exit_of("www.example")) == ("loopback", "server")


def test_closed_port_of_this_machines_loopback_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        limits = Limits(hosts={"me.example": (GATEWAY4, unused.getsockname()[1])})
        egress = Egress(Session(), replace(limits, host_loopback=True))
        assert open_flow(egress, "me.example", 80) is Failure.ECONNREFUSED


def test_loopback_of_this_machine_is_reached_when_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def dialogue() -> None:
            egress = Egress(Session(), Limits(host_loopback=True))
            pump = await egress.open(GATEWAY4, port)
            accepted, _ = await asyncio.to_thread(listener.accept)
            accepted.close()
            pump.abort()
            await asyncio.sleep(0)

        asyncio.run(dialogue(), debug=True)  # which refuses a socket that blocks


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.POLICY])
def test_failure_of_the_far_end_is_reported_and_passed_on(failure: Failure) -> None:
    report = Report()
    egress = Egress(Session(failure), Limits(), report)
    assert open_flow(egress, "www.example.com", 443) is failure
    (contact,) = contacts(report)
    assert contact.outcomes["opened"] == 0
    assert sum(contact.outcomes.values()) == 1
    assert not report.has_denied


def test_datagrams_are_judged_by_the_rules_of_connections_and_reported() -> None:
    report, now = Report(), iter(range(10, 20))
    limits = Limits(rules("+db.example", "+web.example:53"), {"db.example": ("10.0.0.5", 5432)})
    egress = Egress(Session(), limits, report, lambda: next(now))
    wanted = Destination("udp", "db.example", 7)
    admitted = egress.admit(wanted)
    assert (admitted.host, admitted.port, admitted.time_s) == ("10.0.0.5", 5432, 10)
    egress.on_result(wanted, None)
    egress.on_bytes(wanted, 100, 1000)
    denied = egress.admit(Destination("udp", "web.example", 54))
    assert denied.obstacle is Obstacle.RULE
    assert egress.judge(Destination("udp", "db.example", 8)).obstacle is None
    db, web = contacts(report)
    assert (db.host, db.flows, db.outcomes["opened"]) == ("db.example", 1, 1)
    assert (db.bytes_up, db.bytes_down, db.ports) == (100, 1000, (7,))
    assert (db.first, db.last) == (10, 12)
    assert (web.host, web.allowed, web.outcomes["denied"]) == ("web.example", False, 1)


def test_without_a_report_nothing_is_reported() -> None:
    egress = Egress(Session(), Limits())
    wanted = Destination("udp", "www.example", 7)
    assert egress.admit(wanted) == replace(egress.judge(wanted), time_s=ANY)
    egress.on_result(wanted, None)
    egress.on_bytes(wanted, 1, 1)


def test_bytes_of_a_connection_are_reported_when_it_has_ended() -> None:
    async def dialogue() -> None:
        report, now = Report(), iter(range(10, 20))
        egress = Egress(Session(), Limits(), report, lambda: next(now))
        pump = await egress.open("www.example", 443)
        pump.near.received, pump.far.received = 100, 1000
        (before,) = contacts(report)
        assert (before.outcomes["opened"], before.bytes_up, before.last) == (1, 0, 11)
        pump.abort()
        (after,) = contacts(report)
        assert (after.bytes_up, after.bytes_down, after.last) == (100, 1000, 12)

    asyncio.run(dialogue())


def test_without_a_session_the_far_end_is_not_asked_for_a_connection() -> None:
    session, report = Session(Failure.UNAVAILABLE), Report()
    egress = Egress(session, Limits(), report)
    assert open_flow(egress, "www.example", 443) is Failure.UNAVAILABLE
    assert session.opened == []
    (contact,) = contacts(report)
    assert (contact.flows, contact.outcomes["unreachable"]) == (1, 1)


@pytest.mark.parametrize("failure", [Failure.POLICY, Failure.UNAVAILABLE])
def test_service_is_opened_in_the_session_or_not(failure: Failure) -> None:
    async def dialogue() -> None:
        session = Session(failure)
        with pytest.raises(OpenFailed):
            await Egress(session, Limits()).open_service(("udp", 1), asyncio.Protocol())
        assert session.opened == [("udp", 1)]

    asyncio.run(dialogue())
