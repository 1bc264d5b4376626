"""The report: events in, one document out."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.policy import report
from vpn.policy.report import MAX_ENDPOINTS, Contact, Counts, Document, Outcome, Report, encode
from vpn.policy.rules import DEFAULT, NO_DESTINATION, Decision

ALLOWED = Decision(True, DEFAULT)
BY_RULE = Decision(True, "app.example:443")
DENIED = Decision(False, "*.evil")


def outcomes(**counted: int) -> dict[Outcome, int]:
    return {outcome: counted.get(outcome.value, 0) for outcome in Outcome}


def document(made: Report) -> Document:
    return made.document(
        start=10.0, end=99.5, target="me@host", command=("curl", "-s"), exit_status=0
    )


def contacts(made: Report) -> tuple[Contact, ...]:
    return document(made).contacts


def test_new_report_is_empty_and_complete() -> None:
    made = document(Report())
    assert made == Document(1, 10.0, 99.5, "me@host", ("curl", "-s"), 0, (), None)
    assert not Report().has_denied


def test_name_is_looked_up() -> None:
    made = Report()
    made.on_lookup("App.Example.", BY_RULE, 11.0)
    made.on_lookup("app.example", BY_RULE, 12.0)
    assert contacts(made) == (
        Contact(
            host="app.example",
            allowed=True,
            rule="app.example:443",
            met=("dns",),
            ports=(),
            lookups=2,
            flows=0,
            outcomes=outcomes(),
            bytes_up=0,
            bytes_down=0,
            first=11.0,
            last=12.0,
        ),
    )
    assert not made.has_denied


def test_looked_up_name_is_connected_to() -> None:
    made = Report()
    made.on_lookup("app.example", BY_RULE, 11.0)
    made.on_open("app.example", 443, BY_RULE, 12.0)
    made.on_result("app.example", 443, Outcome.OPENED, 13.0)
    made.on_bytes("app.example", 443, 100, 2000, 14.0)
    made.on_bytes("app.example", 443, 1, 20, 15.0)
    (contact,) = contacts(made)
    assert contact.met == ("dns", "connect")
    assert (contact.lookups, contact.flows, contact.ports) == (1, 1, (443,))
    assert contact.outcomes == outcomes(opened=1)
    assert (contact.bytes_up, contact.bytes_down) == (101, 2020)
    assert (contact.first, contact.last) == (11.0, 15.0)


@pytest.mark.parametrize("outcome", Outcome)
def test_wanted_flow_has_an_outcome(outcome: Outcome) -> None:
    made = Report()
    made.on_open("192.0.2.1", 80, ALLOWED, 11.0)
    made.on_result("192.0.2.1", 80, outcome, 12.0)
    (contact,) = contacts(made)
    assert contact.outcomes == outcomes(**{outcome.value: 1})
    assert contact.met == ("connect",)
    assert contact.allowed
    assert made.has_denied == (outcome is Outcome.DENIED)


def test_denied_name_is_looked_up() -> None:
    made = Report()
    made.on_lookup("a.evil", DENIED, 11.0)
    (contact,) = contacts(made)
    assert (contact.allowed, contact.rule, contact.lookups) == (False, "*.evil", 1)
    assert made.has_denied


def test_denied_flow_needs_no_result() -> None:
    made = Report()
    made.on_open("a.evil", 80, DENIED, 11.0)
    (contact,) = contacts(made)
    assert (contact.allowed, contact.flows, contact.ports) == (False, 1, (80,))
    assert contact.outcomes == outcomes(denied=1)
    assert made.has_denied


def test_host_with_an_allowed_and_a_denied_port_is_two_contacts() -> None:
    made = Report()
    denied = Decision(False, DEFAULT)
    made.on_open("app.example", 443, BY_RULE, 11.0)
    made.on_open("app.example", 25, denied, 12.0)
    made.on_result("app.example", 443, Outcome.OPENED, 13.0)
    first, second = contacts(made)
    assert (first.allowed, first.ports, first.outcomes) == (False, (25,), outcomes(denied=1))
    assert (second.allowed, second.ports, second.outcomes) == (True, (443,), outcomes(opened=1))


def test_ports_are_sorted_and_counted_once() -> None:
    made = Report()
    for port in (443, 80, 443, 8080):
        made.on_open("app.example", port, ALLOWED, 11.0)
    (contact,) = contacts(made)
    assert (contact.ports, contact.flows) == ((80, 443, 8080), 4)


def test_echo_has_no_port() -> None:
    made = Report()
    made.on_open("192.0.2.1", 0, ALLOWED, 11.0)
    made.on_result("192.0.2.1", 0, Outcome.OPENED, 12.0)
    (contact,) = contacts(made)
    assert (contact.ports, contact.flows) == ((), 1)


def test_spellings_of_an_address_are_one_contact() -> None:
    made = Report()
    made.on_open("10.0.0.1", 80, ALLOWED, 11.0)
    made.on_result("::ffff:10.0.0.1", 80, Outcome.REFUSED, 12.0)
    (contact,) = contacts(made)
    assert (contact.host, contact.outcomes) == ("10.0.0.1", outcomes(refused=1))


def test_clock_is_set_back() -> None:
    made = Report()
    made.on_lookup("app.example", ALLOWED, 50.0)
    made.on_lookup("app.example", ALLOWED, 20.0)
    (contact,) = contacts(made)
    assert (contact.first, contact.last) == (20.0, 50.0)


def test_unknown_flow_has_a_result() -> None:
    made = Report()
    made.on_lookup("app.example", ALLOWED, 11.0)
    with pytest.raises(LookupError, match=r"app\.example port 443"):
        made.on_result("app.example", 443, Outcome.OPENED, 12.0)
    with pytest.raises(LookupError):
        made.on_bytes("app.example", 443, 1, 1, 12.0)


def test_document_does_not_change_afterwards() -> None:
    made = Report()
    made.on_open("app.example", 443, ALLOWED, 11.0)
    before = document(made)
    encoded = encode(before)
    made.on_result("app.example", 443, Outcome.OPENED, 12.0)
    assert encode(before) == encoded


def test_full_report_counts_the_rest_together() -> None:
    made = Report()
    for number in range(MAX_ENDPOINTS - 1):
        made.on_lookup(f"n{number}.example", ALLOWED, 11.0)
    made.on_open("n0.example", 443, ALLOWED, 12.0)
    assert document(made).overflow is None

    made.on_open("n0.example", 80, ALLOWED, 13.0)
    made.on_result("n0.example", 80, Outcome.OPENED, 14.0)
    made.on_bytes("n0.example", 80, 5, 7, 15.0)
    made.on_lookup("a.evil", DENIED, 16.0)
    made.on_open("n0.example", 443, ALLOWED, 17.0)

    full = document(made)
    assert len(full.contacts) == MAX_ENDPOINTS - 1
    assert full.contacts[0].host == "n0.example"
    assert (full.contacts[0].ports, full.contacts[0].flows) == ((443,), 2)
    assert full.overflow == Counts(
        lookups=1,
        flows=1,
        outcomes=outcomes(opened=1),
        bytes_up=5,
        bytes_down=7,
        first=13.0,
        last=16.0,
    )
    assert made.has_denied


def test_document_is_encoded() -> None:
    made = Report()
    made.on_open("app.example", 443, BY_RULE, 11.0)
    encoded = encode(document(made))
    assert encoded.endswith(b"}\n")
    assert json.loads(encoded) == {
        "schema": 1,
        "start": 10.0,
        "end": 99.5,
        "target": "me@host",
        "command": ["curl", "-s"],
        "exit_status": 0,
        "contacts": [
            {
                "host": "app.example",
                "allowed": True,
                "rule": "app.example:443",
                "met": ["connect"],
                "ports": [443],
                "lookups": 0,
                "flows": 1,
                "outcomes": {
                    "opened": 0,
                    "refused": 0,
                    "unreachable": 0,
                    "timed_out": 0,
                    "denied": 0,
                },
                "bytes_up": 0,
                "bytes_down": 0,
                "first": 11.0,
                "last": 11.0,
            }
        ],
        "overflow": None,
    }


def test_document_holds_bytes_that_are_no_text() -> None:
    made = Report()
    made.on_open("a\udc80\n", 80, Decision(False, NO_DESTINATION), 11.0)
    encoded = encode(
        made.document(start=0.0, end=1.0, target="t", command=("cat", "\udcff"), exit_status=1)
    )
    read = msgspec.json.decode(encoded, type=Document)
    assert read.command == ("cat", "\\udcff")
    assert read.contacts[0].host == "a\\udc80\n"


# Whatever happens, nothing is lost and order does not matter

HOSTS = st.sampled_from(["a", "b.evil", "192.0.2.1", "::1"])
PORTS = st.integers(1, 3)
Flow = tuple[str, int, Outcome, int, int]
FLOWS = st.tuples(HOSTS, PORTS, st.sampled_from(Outcome), st.integers(0, 9), st.integers(0, 9))


def decide(host: str, port: int) -> Decision:
    """Any function of host and port, as a policy is."""
    return DENIED if host == "b.evil" or port == 3 else ALLOWED


def counted(flows: list[Flow]) -> Report:
    made = Report()
    for now, (host, port, outcome, up, down) in enumerate(flows):
        decision = decide(host, port)
        made.on_open(host, port, decision, now)
        if decision.allowed:
            made.on_result(host, port, outcome, now)
            made.on_bytes(host, port, up, down, now)
    return made


@given(st.lists(FLOWS, max_size=30), st.integers(1, 12))
def test_sums_are_those_of_the_events(flows: list[Flow], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "MAX_ENDPOINTS", limit)
        made = counted(flows)
    full = document(made)
    tallies = [*full.contacts, *([full.overflow] if full.overflow else [])]
    endpoints = {(host, port) for host, port, *_ in flows}
    assert (full.overflow is not None) == (len(endpoints) > limit)
    assert sum(len(contact.ports) for contact in full.contacts) == min(limit, len(endpoints))
    assert sum(tally.flows for tally in tallies) == len(flows)

    passed = [flow for flow in flows if decide(flow[0], flow[1]).allowed]
    expected = Counter(flow[2] for flow in passed)
    expected[Outcome.DENIED] += len(flows) - len(passed)
    for outcome in Outcome:
        assert sum(tally.outcomes[outcome] for tally in tallies) == expected[outcome]
    assert sum(tally.bytes_up for tally in tallies) == sum(flow[3] for flow in passed)
    assert sum(tally.bytes_down for tally in tallies) == sum(flow[4] for flow in passed)
    assert made.has_denied == (expected[Outcome.DENIED] > 0)


def by_content(made: Report) -> list[tuple[str, bool, str, tuple[int, ...]]]:
    return [(found.host, found.allowed, found.rule, found.ports) for found in contacts(made)]


@given(
    st.lists(FLOWS, max_size=20).flatmap(
        lambda flows: st.permutations(flows).map(lambda shuffled: (flows, shuffled))
    )
)
def test_order_of_contacts_is_not_that_of_events(
    orders: tuple[list[Flow], list[Flow]],
) -> None:
    one, other = (by_content(counted(flows)) for flows in orders)
    assert one == other == sorted(one)
