"""Lookups: rules first, static names next, then the far end; and what the report has of it."""

from __future__ import annotations

import asyncio

import pytest

from dns.disposition import Path
from dns.upstream import read_answer
from shim.protocol.gate import LookedUp, Lookup, Outcome
from vpn.client.flows.admission import Limits
from vpn.client.names.far_resolver import FarResolver
from vpn.client.names.lookups import Lookups
from vpn.policy.report import Report
from vpn.policy.rules import Action, Policy, parse_rule

A, PTR, MX, AAAA = 1, 12, 15, 28
STATIC = Limits(hosts={"db.example": ("10.0.0.5", 5432)})


async def never() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raise AssertionError("the far end is asked")


def rules(*texts: str) -> Policy:
    """Rules as on the command line: `+name` allows, `-name` denies."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return Policy([parse_rule(actions[text[0]], text[1:]) for text in texts])


def hear(lookups: Lookups, name: str, rtype: int) -> LookedUp:
    async def dialogue() -> LookedUp:
        return await lookups.answer(Lookup(7, name, rtype))

    return asyncio.run(dialogue())


def ask(lookups: Lookups, name: str, rtype: int = A) -> Outcome:
    return hear(lookups, name, rtype).outcome


def test_static_name_is_answered_here_and_so_is_its_address() -> None:
    lookups = Lookups(FarResolver(never), STATIC)
    assert hear(lookups, "db.example", A) == LookedUp(7, Outcome.FOUND, b"")
    assert ask(lookups, "db.example", AAAA) is Outcome.FOUND
    assert ask(lookups, "db.example", MX) is Outcome.NO_DATA
    back = hear(lookups, "5.0.0.10.in-addr.arpa", PTR)
    assert back.outcome is Outcome.FOUND
    (record,) = read_answer(back.message, 0, "5.0.0.10.in-addr.arpa", PTR).records
    assert record.data == b"\x02db\x07example\0"


def test_without_anybody_to_ask_other_types_are_not_known() -> None:
    lookups = Lookups(None, Limits())
    assert ask(lookups, "www.example", AAAA) is Outcome.FOUND
    assert hear(lookups, "www.example", MX) == LookedUp(7, Outcome.UNSUPPORTED, b"")


def test_rules_hold_for_every_type_and_every_name() -> None:
    report = Report()
    lookups = Lookups(None, Limits(rules("+*.example.com")), report)
    for name in ("www.example.com", "_ldap._tcp.example.com", "my\\032printer.example.com"):
        assert ask(lookups, name, MX) is Outcome.UNSUPPORTED
    for name in ("example.com", "www.example", "5.0.0.10.in-addr.arpa", "a\\046example.com", "."):
        assert ask(lookups, name, MX) is Outcome.REFUSED
    assert report.has_denied


def test_text_that_is_no_name_has_failed() -> None:
    assert ask(Lookups(None, Limits()), "a..b", MX) is Outcome.FAILED


def test_way_to_an_answer_is_known() -> None:
    assert Lookups(None, Limits()).path_of("www.example", A) is Path.VIRTUAL
    lookups = Lookups(FarResolver(never), STATIC)
    assert lookups.path_of("www.example", A) is Path.FAR
    assert lookups.path_of("db.example", A) is Path.STATIC
    assert lookups.path_of("5.0.0.10.in-addr.arpa", PTR) is Path.STATIC


def test_denied_name_is_refused_without_asking_and_reported_with_its_time() -> None:
    report = Report()
    limits = Limits(rules("+www.example:443", "-*.example.com"), STATIC.hosts)
    lookups = Lookups(FarResolver(never), limits, report, lambda: 12.5)
    assert ask(lookups, "www.example.com") is Outcome.REFUSED
    (contact,) = report.document(start=0, end=1, target="t", command=(), exit_status=0).contacts
    assert (contact.host, contact.allowed, contact.lookups) == ("www.example.com", False, 1)
    assert (contact.rule, contact.first) == ("*.example.com", 12.5)


def test_allowed_port_lets_the_name_be_resolved() -> None:
    lookups = Lookups(None, Limits(rules("+www.example.com:443")))
    assert ask(lookups, "www.example.com") is Outcome.FOUND
    assert lookups.judge("www.example.com", A).allowed


def test_what_is_known_is_told_also_of_denied_names_and_not_reported() -> None:
    report = Report()
    lookups = Lookups(None, Limits(rules("-*")), report)
    known = asyncio.run(lookups.known("www.example", A))
    assert known.outcome.name == "FOUND"
    assert not report.has_denied


def test_closed_lookups_close_the_channel_to_the_resolver() -> None:
    async def dialogue() -> None:
        connecting = asyncio.Event()

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            connecting.set()
            await asyncio.sleep(60)
            raise AssertionError

        lookups = Lookups(FarResolver(connect), Limits())
        asking = asyncio.create_task(lookups.answer(Lookup(7, "www.example", A)))
        await connecting.wait()
        lookups.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, 5)

    asyncio.run(dialogue())
    Lookups(None, Limits()).close()
