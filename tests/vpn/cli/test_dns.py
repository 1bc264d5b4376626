"""What `dns` prints and how it exits, whoever answers."""

from __future__ import annotations

import pytest

from dns.records import Record
from dns.reply import Reply
from vpn.cli import dns
from vpn.cli.dns import Answer, outcome_of
from vpn.cli.main import run
from vpn.control.messages import DnsStatus, Pool, Resolution

A, CNAME, ANY = 1, 5, 255


def reply(rcode: int, *rtypes: int) -> Reply:
    records = tuple(Record(b"\0", rtype, 1, 5, b"\0\0\0\0") for rtype in rtypes)
    return Reply(rcode, records, (), "")


@pytest.mark.parametrize(
    ("got", "rtype", "outcome", "status"),
    [
        (reply(0, A), A, "found", 0),
        (reply(0, CNAME, A), A, "found", 0),
        (reply(0, CNAME), CNAME, "found", 0),
        (reply(0, 13), ANY, "found", 0),
        (reply(0), A, "no-data", 4),
        (reply(0, CNAME), A, "no-data", 4),
        (reply(3, CNAME), A, "nxdomain", 3),
        (reply(2), A, "failed", 1),
        (reply(5), A, "failed", 1),
        (None, A, "failed", 1),
    ],
)
def test_each_outcome_has_its_status(
    got: Reply | None, rtype: int, outcome: str, status: int
) -> None:
    assert outcome_of(got, rtype) == outcome
    assert dns._STATUS[outcome_of(got, rtype)] == status


@pytest.mark.parametrize(
    "words", [["query"], ["query", "a..b"], ["query", "é"], ["query", "a.b", "TYPE0"], ["none"]]
)
def test_question_that_means_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["dns", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_answer_of_a_hostile_client_does_nothing_to_the_terminal() -> None:
    hostile = "a\x1b]0;owned\x07\x9b2J\nb"
    status = DnsStatus(
        mode="remote",
        asked=hostile,
        is_connected=False,
        is_captured=True,
        suffixes=(hostile,),
        hosts={hostile: hostile},
        search=(hostile,),
        pool=Pool(1, 2, 3),
        cache_answers=0,
        cache_hits=0,
        resolved=hostile,
        paused_s=1,
        warnings=(hostile,),
    )
    answer = Answer(
        name="a",
        type="A",
        outcome="failed",
        rcode="",
        why=hostile,
        answers=(hostile,),
        authority=(hostile,),
        path=Resolution(way="far", asked=hostile),
        path_text=hostile,
        server="192.0.2.53",
        protocol="udp",
        elapsed_ms=1,
    )
    for lines in (dns._status_lines(status), dns._answer_lines(answer)):
        assert len(lines) > 4
        assert all(map(str.isprintable, map(dns.printable, lines)))
