"""What may leave: rules first, static names next, and what became of it in the report."""

from __future__ import annotations

import asyncio
import socket

import pytest

from shim.protocol import GATEWAY4
from shim.protocol.gate import Lookup, Outcome
from vpn.client.egress import Egress, Limits
from vpn.policy import Action, Policy, parse_rule
from vpn.pump import Pump
from vpn.report import Report
from vpn.ssh.failure import Failure, OpenFailed


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


def ask(egress: Egress, name: str) -> Outcome:
    async def dialogue() -> Outcome:
        return await egress.ask(Lookup(1, name, 1))

    return asyncio.run(dialogue())


def test_without_rules_everything_is_opened_by_name() -> None:
    session = Session()
    assert open_flow(Egress(session, None, Limits()), "www.example.com", 443) is None
    assert session.opened == [("www.example.com", 443)]


def test_denied_is_never_asked_of_the_session() -> None:
    session, report = Session(), Report()
    egress = Egress(session, None, Limits(rules("-*.example.com")), report)
    assert open_flow(egress, "www.example.com", 443) is Failure.POLICY
    assert ask(egress, "www.example.com") is Outcome.REFUSED
    assert session.opened == []
    assert report.has_denied


def test_allowed_port_lets_the_name_be_resolved_but_no_other_port() -> None:
    session = Session()
    egress = Egress(session, None, Limits(rules("+www.example.com:443")))
    assert ask(egress, "www.example.com") is Outcome.FOUND
    assert open_flow(egress, "www.example.com", 443) is None
    assert open_flow(egress, "www.example.com", 80) is Failure.POLICY


def test_static_name_goes_to_its_address_and_port() -> None:
    session = Session()
    limits = Limits(hosts={"db.example": ("10.0.0.5", 5432), "web.example": ("10.0.0.6", 0)})
    egress = Egress(session, None, limits)
    assert open_flow(egress, "db.example", 1) is None
    assert open_flow(egress, "web.example", 80) is None
    assert session.opened == [("10.0.0.5", 5432), ("10.0.0.6", 80)]


def test_loopback_of_this_machine_is_refused_unless_asked_for() -> None:
    assert open_flow(Egress(Session(), None, Limits()), GATEWAY4, 80) is Failure.ECONNREFUSED


def test_loopback_of_this_machine_is_reached_when_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def dialogue() -> None:
            egress = Egress(Session(), None, Limits(host_loopback=True))
            pump = await egress.open(GATEWAY4, port)
            accepted, _ = await asyncio.to_thread(listener.accept)
            accepted.close()
            pump.abort()
            await asyncio.sleep(0)

        asyncio.run(dialogue())


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.POLICY])
def test_failure_of_the_far_end_is_reported_and_passed_on(failure: Failure) -> None:
    report = Report()
    egress = Egress(Session(failure), None, Limits(), report)
    assert open_flow(egress, "www.example.com", 443) is failure
    (contact,) = report.document(start=0, end=1, target="t", command=(), exit_status=0).contacts
    assert contact.outcomes["opened"] == 0
    assert sum(contact.outcomes.values()) == 1
    assert not report.has_denied
