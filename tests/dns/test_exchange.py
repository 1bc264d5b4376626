"""The stub client as a dialogue: octets and times in, orders out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.exchange import Ask, Done, Exchange
from dns.framing import frame
from dns.upstream import build_query
from dns.wire import WireError

A = 1
QUERY = build_query(0, "app.example", A)
ONE, TWO = "192.0.2.1", "192.0.2.2"
OK, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
TRUNCATED = 0x0200


def answer(ident: int, flags: int = OK, query: bytes = QUERY) -> bytes:
    """What a server says to a query without having a record."""
    return ident.to_bytes(2) + (0x8180 | flags).to_bytes(2) + query[4:]


def sent(ident: int) -> bytes:
    return ident.to_bytes(2) + QUERY[2:]


def asking(*servers: str, sends: int = 1) -> Exchange:
    """An exchange that gives its turns the identifiers 100, 101 and so on."""
    idents: Iterator[int] = count(100)
    return Exchange(QUERY, servers, 5.0, sends=sends, idents=lambda: next(idents))


def test_started_asks_the_first_server_over_udp() -> None:
    exchange = asking(ONE, TWO)
    assert exchange.start(10.0) == Ask(ONE, False, sent(100))
    assert exchange.deadline_s == 15.0


def test_asked_answer_arrives_and_it_is_over() -> None:
    exchange = asking(ONE, TWO)
    exchange.start(10.0)
    assert exchange.on_octets(answer(100, NXDOMAIN), 14.9) == Done(answer(0, NXDOMAIN))
    assert exchange.over_tcp is False


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param(b"", id="empty datagram"),
        pytest.param(b"\0" * 11, id="shorter than a header"),
        pytest.param(answer(101), id="another identifier"),
        pytest.param(sent(100), id="the query itself"),
        pytest.param(answer(100, 0x2800), id="another kind of query"),
        pytest.param(answer(100, query=build_query(0, "apq.example", A)), id="about another name"),
        pytest.param(answer(100, query=build_query(0, "app.example", 28)), id="another type"),
        pytest.param(answer(100)[:-1] + b"\3", id="another class"),
        pytest.param(answer(100)[:20], id="question cut short"),
        pytest.param(answer(100)[:4] + bytes(8), id="no question"),
        pytest.param(answer(100)[:4] + b"\0\2" + answer(100)[6:], id="two questions"),
    ],
)
def test_asked_stray_datagrams_are_ignored_and_buy_no_time(stray: bytes) -> None:
    exchange = asking(ONE)
    exchange.start(10.0)
    assert exchange.on_octets(stray, 14.0) is None
    assert exchange.deadline_s == 15.0
    assert exchange.on_octets(answer(100), 14.0) == Done(answer(0))


def test_asked_answer_in_another_case_counts() -> None:
    exchange = asking(ONE)
    exchange.start(0.0)
    shouted = answer(100).replace(b"app", b"APP")
    assert exchange.on_octets(shouted, 1.0) == Done(b"\0\0" + shouted[2:])


def test_asked_error_without_question_is_an_answer() -> None:
    """A server that cannot read the query says no more than that."""
    exchange = asking(ONE)
    exchange.start(0.0)
    error = answer(100, FORMERR)[:4] + bytes(8)
    assert exchange.on_octets(error, 1.0) == Done(b"\0\0" + error[2:])


def test_time_up_next_server_asked_with_another_identifier() -> None:
    exchange = asking(ONE, TWO)
    exchange.start(10.0)
    assert exchange.on_time(15.0) == Ask(TWO, False, sent(101))
    assert exchange.deadline_s == 20.0
    assert exchange.on_octets(answer(100), 16.0) is None
    assert exchange.on_time(20.0) == Done(None)


def test_answer_after_the_deadline_is_not_looked_at() -> None:
    exchange = asking(ONE, TWO)
    exchange.start(10.0)
    assert exchange.on_octets(answer(100), 15.0) == Ask(TWO, False, sent(101))


def test_several_sends_repeat_on_the_same_socket_and_any_answer_counts() -> None:
    exchange = asking(ONE, sends=3)
    first = exchange.start(0.0)
    again = Ask(ONE, False, sent(100), is_again=True)
    assert first == Ask(ONE, False, sent(100))
    assert (exchange.on_time(5.0), exchange.deadline_s) == (again, 10.0)
    assert (exchange.on_time(10.0), exchange.deadline_s) == (again, 15.0)
    assert exchange.on_octets(answer(100), 12.0) == Done(answer(0))


def test_all_sends_unanswered_next_server_has_as_many() -> None:
    exchange = asking(ONE, TWO, sends=2)
    exchange.start(0.0)
    exchange.on_time(5.0)
    assert exchange.on_time(10.0) == Ask(TWO, False, sent(101))
    assert exchange.on_time(15.0) == Ask(TWO, False, sent(101), is_again=True)
    assert exchange.on_time(20.0) == Done(None)


def test_socket_failed_next_server_asked_at_once() -> None:
    exchange = asking(ONE, TWO, sends=3)
    exchange.start(0.0)
    assert exchange.on_error(1.0) == Ask(TWO, False, sent(101))
    assert exchange.on_error(1.0) == Done(None)


@pytest.mark.parametrize("rcode", [FORMERR, SERVFAIL, NOTIMP, REFUSED])
def test_server_cannot_tell_next_one_asked(rcode: int) -> None:
    exchange = asking(ONE, TWO)
    exchange.start(0.0)
    assert exchange.on_octets(answer(100, rcode), 1.0) == Ask(TWO, False, sent(101))
    assert exchange.answer == answer(0, rcode)
    assert exchange.on_octets(answer(101), 2.0) == Done(answer(0))


def test_nobody_can_tell_the_last_one_that_spoke_is_the_answer() -> None:
    exchange = asking(ONE, TWO, ONE)
    exchange.start(0.0)
    exchange.on_octets(answer(100, SERVFAIL), 1.0)
    exchange.on_octets(answer(101, REFUSED), 1.0)
    assert exchange.on_time(6.0) == Done(answer(0, REFUSED))


def test_truncated_same_server_asked_over_tcp_with_as_much_time() -> None:
    exchange = asking(ONE, sends=3)
    exchange.start(0.0)
    assert exchange.on_octets(answer(100, TRUNCATED), 4.0) == Ask(ONE, True, frame(sent(100)))
    assert (exchange.over_tcp, exchange.deadline_s) == (True, 19.0)
    assert exchange.on_octets(frame(answer(100)), 5.0) == Done(answer(0))


def test_at_tcp_octets_one_by_one_are_as_good() -> None:
    exchange = asking(ONE)
    exchange.start(0.0)
    exchange.on_octets(answer(100, TRUNCATED), 1.0)
    *octets, last = frame(answer(99)) + frame(answer(100))
    assert {exchange.on_octets(bytes([one]), 2.0) for one in octets} == {None}
    assert exchange.on_octets(bytes([last]), 2.0) == Done(answer(0))


def test_at_tcp_truncated_answer_is_as_long_as_it_gets() -> None:
    exchange = asking(ONE)
    exchange.start(0.0)
    exchange.on_octets(answer(100, TRUNCATED), 1.0)
    whole = answer(0, TRUNCATED)
    assert exchange.on_octets(frame(answer(100, TRUNCATED)), 2.0) == Done(whole)


def test_at_tcp_connection_ended_or_time_up_next_server_asked_over_udp() -> None:
    for end in (
        lambda exchange: exchange.on_octets(b"", 2.0),
        lambda exchange: exchange.on_time(11.0),
        lambda exchange: exchange.on_error(2.0),
    ):
        exchange = asking(ONE, TWO, sends=2)
        exchange.start(0.0)
        exchange.on_octets(answer(100, TRUNCATED), 1.0)
        assert end(exchange) == Ask(TWO, False, sent(101))
        assert exchange.over_tcp is False


def test_at_tcp_stream_of_the_server_before_is_forgotten() -> None:
    exchange = asking(ONE, TWO)
    exchange.start(0.0)
    exchange.on_octets(answer(100, TRUNCATED), 1.0)
    exchange.on_octets(b"\xff\xff incomplete", 1.0)
    exchange.on_error(2.0)
    exchange.on_octets(answer(101, TRUNCATED), 3.0)
    assert exchange.on_octets(frame(answer(101)), 4.0) == Done(answer(0))


def test_without_servers_it_is_over_at_once() -> None:
    assert asking().start(0.0) == Done(None)


def relaying(*, over_tcp: bool) -> Exchange:
    return Exchange(sent(7), [ONE], 5.0, over_tcp=over_tcp)


def test_relayed_over_udp_goes_as_it_came_and_its_truncated_answer_too() -> None:
    exchange = relaying(over_tcp=False)
    assert exchange.start(0.0) == Ask(ONE, False, sent(7))
    assert exchange.on_octets(answer(7, TRUNCATED), 1.0) == Done(answer(7, TRUNCATED))


def test_relayed_over_tcp_goes_over_tcp() -> None:
    exchange = relaying(over_tcp=True)
    assert exchange.start(1.0) == Ask(ONE, True, frame(sent(7)))
    assert (exchange.over_tcp, exchange.deadline_s) == (True, 6.0)
    assert exchange.on_octets(frame(answer(7, SERVFAIL)), 2.0) == Done(answer(7, SERVFAIL))


def test_relayed_over_tcp_unanswered_is_not_sent_again() -> None:
    exchange = relaying(over_tcp=True)
    exchange.start(1.0)
    assert exchange.on_time(6.0) == Done(None)


@pytest.mark.parametrize("query", [b"", QUERY[:12], QUERY[:-1], QUERY[:12] + b"\xc0\x0c\0\1\0\1"])
def test_query_without_a_question_is_refused(query: bytes) -> None:
    with pytest.raises(WireError):
        Exchange(query, [ONE], 5.0)


@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_any_octets_leave_it_waiting_or_over(junk: list[bytes], is_stream: bool) -> None:
    exchange = asking(ONE)
    exchange.start(0.0)
    if is_stream:
        exchange.on_octets(answer(100, TRUNCATED), 0.0)
    for octets in junk:
        assert exchange.on_octets(octets, 1.0) in (None, Done(None))
