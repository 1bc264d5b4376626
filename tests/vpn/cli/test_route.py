"""What `route get` prints."""

from __future__ import annotations

import pytest

from vpn.cli import route
from vpn.cli.main import run
from vpn.control.messages import Resolution
from vpn.control.verdict import Explanation, RouteText, RuleText, Verdict

ROUTE = RouteText(
    table=7200,
    kind="unicast",
    prefix="default",
    device="ovpn0",
    gateway="",
    source="198.18.0.2",
    rule=RuleText(7202, True, "to 198.18.0.0/15"),
)


def explanation(*verdicts: Verdict, way: Resolution | None = None) -> Explanation:
    return Explanation(
        host="www.example",
        port=443,
        name="www.example",
        way=way,
        is_assigned=False,
        server="alice@vpn",
        carries_udp=False,
        verdicts=verdicts,
    )


def test_lines_say_name_verdict_rule_and_route() -> None:
    one = Verdict(address="198.18.0.9", verdict="tunnel", why="it leaves at alice@vpn", route=ROUTE)
    way = Resolution(way="far", asked="server", is_virtual=True)
    assert route._lines(explanation(one, way=way)) == [
        "www.example:443",
        "  name     asked of the server's resolver, at the far end",
        "  address  virtual, those that it would have",
        "198.18.0.9:443  tunnel: it leaves at alice@vpn",
        "  rule     7202, ours: to 198.18.0.0/15",
        "  route    table 7200: default dev ovpn0 src 198.18.0.2",
        "  udp      not carried by this server: unreachable at once",
    ]


def test_name_without_an_address_is_said_in_one_line() -> None:
    gone = Verdict(address="", verdict="nonexistent", why="no such name")
    lines = route._lines(explanation(gone, way=Resolution(way="far", asked="192.0.2.53")))
    assert lines[2:] == ["nonexistent: no such name"]


@pytest.mark.parametrize("words", [[], ["get"], ["get", "a b"], ["get", "a.b:0"], ["get", "[::1"]])
def test_destination_that_means_nothing_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["route", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err
