"""DNS in the gate: what is answered here, what the client is asked, and what waits too long."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

import dnslib
import pytest

from dns import upstream
from dns.pool import Pool, buffer_size
from dns.records import Record
from dns.upstream import Answer, write_answer
from shim.gate.orders import Order, ReplyStream, SendClient
from shim.gate.resolver import MAX_WAITING, WAIT_TIMEOUT_S, Names, Stream
from shim.protocol import GATEWAY4, POOL4, POOL6
from shim.protocol import gate as messages

SERVER = ip_address("192.0.2.53").packed
SLOTS = 1024
CONNECTION = 5


class Asker:
    """An application that asks on a connection and keeps what it hears."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.heard: list[bytes] = []

    def ask(
        self, name: str, rtype: str = "A", *, server: bytes = SERVER, now: float = 0.0
    ) -> object:
        """Ask, and return what the client is asked."""
        query = dnslib.DNSRecord.question(name, rtype)
        query.header.id = 4711
        order = self.names.on_query(bytes(query.pack()), Stream(server, CONNECTION), now)
        if isinstance(order, SendClient):
            return order.message
        self.hear(order)
        return None

    def hear(self, *orders: Order | None) -> None:
        """Take what an answer of the client leads to."""
        for order in orders:
            if order is not None:
                assert isinstance(order, ReplyStream)
                assert order.stream == CONNECTION
                self.heard.append(order.message)

    @property
    def answer(self) -> dnslib.DNSRecord:
        (wire,) = self.heard
        return dnslib.DNSRecord.parse(wire)


@pytest.fixture
def names() -> Names:
    pool = Pool(
        memoryview(bytearray(buffer_size(SLOTS))),
        IPv4Network(POOL4),
        IPv6Network(POOL6),
        b"key",
        SLOTS,
    )
    return Names(pool)


@pytest.fixture
def asker(names: Names) -> Asker:
    return Asker(names)


def test_before_the_settings_nothing_is_answered(asker: Asker) -> None:
    assert asker.ask("www.example.com") is None
    assert asker.heard == []


def test_virtual_name_is_answered_and_its_address_stands_for_it(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(False, ()))
    assert asker.ask("www.example.com") is None
    address = ip_address(str(asker.answer.rr[0].rdata))
    assert names.target(address.packed) == ("www.example.com", "www.example.com")


def test_address_outside_the_pool_stands_for_itself(names: Names) -> None:
    assert names.target(ip_address("203.0.113.7").packed) == ("203.0.113.7", None)
    assert names.target(ip_address("2001:db8::7").packed) == ("2001:db8::7", None)


def test_address_of_the_gate_stands_for_itself(names: Names) -> None:
    assert names.target(ip_address(GATEWAY4).packed) == (GATEWAY4, None)


def test_address_of_the_pool_without_name_stands_for_nothing(names: Names) -> None:
    assert names.target(ip_address("198.18.9.9").packed) is None
    assert names.target(ip_address("fd6f:7670:6e00::999").packed) is None


def test_far_end_is_asked_before_an_answer(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(True, ()))
    question = asker.ask("www.example.com")
    assert question == messages.Lookup(1, "www.example.com", 1)
    assert asker.heard == []
    asker.hear(names.on_looked_up(messages.LookedUp(1, messages.Outcome.FOUND), 0.1))
    assert len(asker.answer.rr) == 1


@pytest.mark.parametrize(
    ("outcome", "rcode"),
    [
        (messages.Outcome.NX_DOMAIN, "NXDOMAIN"),
        (messages.Outcome.NO_DATA, "NOERROR"),
        (messages.Outcome.FAILED, "SERVFAIL"),
        (messages.Outcome.UNREACHABLE, "SERVFAIL"),
        (messages.Outcome.REFUSED, "REFUSED"),
    ],
)
def test_what_the_far_end_does_not_find_is_not_found(
    names: Names, asker: Asker, outcome: messages.Outcome, rcode: str
) -> None:
    names.configure(messages.Configure(True, ()))
    asker.ask("www.example.com")
    asker.hear(names.on_looked_up(messages.LookedUp(1, outcome), 0.1))
    assert dnslib.RCODE[asker.answer.header.rcode] == rcode
    assert asker.answer.rr == []


def test_records_of_the_far_end_are_passed_on(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(True, ()))
    assert asker.ask("www.example.com", "MX") == messages.Lookup(1, "www.example.com", 15)
    owner = b"\x03www\x07example\x03com\0"
    found = Answer(upstream.Outcome.FOUND, 9, (Record(owner, 15, 1, 9, b"\0\1\0"),))
    message = write_answer(found, "www.example.com", 15)
    asker.hear(names.on_looked_up(messages.LookedUp(1, messages.Outcome.FOUND, message), 0.1))
    assert [str(one.rdata) for one in asker.answer.rr] == ["1 ."]


def test_records_that_are_none_are_a_failure(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(True, ()))
    asker.ask("www.example.com", "MX")
    asker.hear(names.on_looked_up(messages.LookedUp(1, messages.Outcome.FOUND, b"whatever"), 0.1))
    assert dnslib.RCODE[asker.answer.header.rcode] == "SERVFAIL"


def test_far_end_that_answers_twice_or_something_else_is_heard_once(
    names: Names, asker: Asker
) -> None:
    names.configure(messages.Configure(True, ()))
    asker.ask("www.example.com")
    asker.hear(names.on_looked_up(messages.LookedUp(99, messages.Outcome.FOUND), 0.1))
    asker.hear(names.on_forwarded(messages.Forwarded(98, b"not asked for")))
    assert asker.heard == []
    asker.hear(names.on_looked_up(messages.LookedUp(1, messages.Outcome.FOUND), 0.1))
    asker.hear(names.on_looked_up(messages.LookedUp(1, messages.Outcome.NX_DOMAIN), 0.2))
    assert len(asker.heard) == 1


def test_far_end_that_never_answers_is_a_failure(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(True, ()))
    asker.ask("www.example.com")
    asker.hear(*names.expire(WAIT_TIMEOUT_S))
    assert asker.heard == []
    asker.hear(*names.expire(WAIT_TIMEOUT_S + 0.1))
    assert dnslib.RCODE[asker.answer.header.rcode] == "SERVFAIL"


def test_name_of_another_suffix_goes_where_it_went_before(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(False, ("corp.example",)))
    question = asker.ask("printer.home.arpa")
    assert isinstance(question, messages.Forward)
    assert (question.server, question.over_tcp) == (SERVER, True)
    asker.hear(names.on_forwarded(messages.Forwarded(question.query, b"whatever it said")))
    assert asker.heard == [b"whatever it said"]


def test_former_resolver_that_is_silent_stays_silent(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(False, ("corp.example",)))
    question = asker.ask("printer.home.arpa")
    assert isinstance(question, messages.Forward)
    asker.hear(names.on_forwarded(messages.Forwarded(question.query, b"")))
    assert asker.heard == []


def test_gate_itself_was_nobodys_resolver_before(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(False, ("corp.example",)))
    assert asker.ask("printer.home.arpa", server=ip_address(GATEWAY4).packed) is None


def test_questions_that_wait_are_bounded(names: Names, asker: Asker) -> None:
    names.configure(messages.Configure(True, ()))
    for number in range(MAX_WAITING):
        assert asker.ask(f"n{number}.example.com") is not None
    assert asker.ask("one-more.example.com") is None
    assert dnslib.RCODE[asker.answer.header.rcode] == "SERVFAIL"
    asker.hear(*names.expire(WAIT_TIMEOUT_S + 1))
    assert asker.ask("one-more.example.com") is not None


# What the pool has, for people.


def test_pool_is_shown_and_not_changed(names: Names) -> None:
    empty = messages.PoolState(1, SLOTS, 0, 0, "", (), False)
    assert names.on_pool_wanted(messages.PoolWanted(1, ""), 0.0) == empty
    would = names.on_pool_wanted(messages.PoolWanted(2, "WWW.example."), 0.0)
    assert (would.name, would.is_assigned, would.used) == ("www.example", False, 0)
    assert [len(one) for one in would.addresses] == [4, 16]
    assert names.target(would.addresses[0]) is None


def test_name_of_an_address_and_address_of_a_name_belong_together(names: Names) -> None:
    names.configure(messages.Configure(False, ()))
    asker = Asker(names)
    asker.ask("www.example")
    address = str(asker.answer.rr[0].rdata)
    names.pin("www.example")
    by_name = names.on_pool_wanted(messages.PoolWanted(1, "www.example"), 1.0)
    assert str(ip_address(by_name.addresses[0])) == address
    assert (by_name.is_assigned, by_name.used, by_name.pinned) == (True, 1, 1)
    assert names.on_pool_wanted(messages.PoolWanted(1, address), 1.0) == by_name


@pytest.mark.parametrize(
    "host", ["", "a..b", "é", "x" * 300, "1.2.3", "192.0.2.1", "198.18.77.77", "fe80::1%eth0"]
)
def test_host_that_the_pool_does_not_know_has_nothing(names: Names, host: str) -> None:
    said = names.on_pool_wanted(messages.PoolWanted(9, host), 0.0)
    assert said == messages.PoolState(9, SLOTS, 0, 0, "", (), False)
