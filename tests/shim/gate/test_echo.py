"""Pings as a dialogue: what the application sends, what the client is asked, what comes back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from shim.gate.echo import IDLE_S, Echo
from shim.gate.orders import Drop, Order, SendDatagram, WriteCapture
from shim.gate.wire import packet
from shim.gate.wire.packet import Packet
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import GATEWAY4, GATEWAY6
from shim.protocol.datagrams import Ping, Pong, Unanswered
from shim.protocol.gate import DropReason, first_number

APP4, FAR4, VIRTUAL4, UNMAPPED4 = "198.18.0.2", "203.0.113.7", "198.18.5.5", "198.18.9.9"
APP6, FAR6, VIRTUAL6 = "fd6f:7670:6e00::2", "2001:db8:3::7", "fd6f:7670:6e00::5"
ROUTER4, ROUTER6 = "203.0.113.1", "2001:db8:3::1"
PAYLOAD = b"a pattern"


class Names:
    """A pool with one name, which counts its pins."""

    def __init__(self) -> None:
        self.pins = 0

    def target(self, address: bytes) -> tuple[str, str | None] | None:
        text = str(ip_address(address))
        if text in (VIRTUAL4, VIRTUAL6):
            return "www.example.com", "www.example.com"
        return None if text == UNMAPPED4 else (text, None)

    def is_virtual(self, address: bytes) -> bool:
        return str(ip_address(address)) in (VIRTUAL4, VIRTUAL6, UNMAPPED4)

    def pin(self, name: str) -> None:
        self.pins += 1

    def unpin(self, name: str, now: float) -> None:
        self.pins -= 1


def read(layers: ScapyPacket) -> Packet:
    result = packet.read(NO_OFFLOAD + bytes(layers))
    assert isinstance(result, Packet)
    return result


def ping4(to: str = FAR4, ident: int = 77, seq: int = 1, **fields: object) -> ScapyPacket:
    return IP(src=APP4, dst=to, **fields) / ICMP(type=8, id=ident, seq=seq) / Raw(PAYLOAD)


def ping6(to: str = FAR6, ident: int = 77, seq: int = 1, **fields: object) -> ScapyPacket:
    echo = ICMPv6EchoRequest(id=ident, seq=seq, data=PAYLOAD)
    return IPv6(src=APP6, dst=to, **fields) / echo


def asked(echo: Echo, layers: ScapyPacket, now: float = 0.0) -> Ping:
    order = echo.on_request(read(layers), now)
    assert isinstance(order, SendDatagram)
    assert isinstance(order.message, Ping)
    return order.message


def raw_of(order: Order) -> bytes:
    assert isinstance(order, WriteCapture)
    assert order.framed.startswith(NO_OFFLOAD)
    return order.framed[len(NO_OFFLOAD) :]


LATE = Drop(DropReason.LATE_ECHO)


def test_request_is_asked_of_the_client_with_a_hop_less() -> None:
    echo = Echo(Names())
    assert asked(echo, ping4(ttl=9)) == Ping(1, 4, FAR4, 8, True, 1, PAYLOAD)
    assert asked(echo, ping4(ttl=9, flags="DF", seq=2)) == Ping(1, 4, FAR4, 8, False, 2, PAYLOAD)
    assert asked(echo, ping6(hlim=2)) == Ping(2, 6, FAR6, 1, True, 1, PAYLOAD)


def test_pong_is_a_reply_of_whom_was_pinged() -> None:
    echo = Echo(Names())
    asked(echo, ping4(seq=5))
    reply = ICMP(type=0, id=77, seq=5) / Raw(PAYLOAD)
    expected = bytes(IP(src=FAR4, dst=APP4, id=0, ttl=58) / reply)
    assert raw_of(echo.on_pong(Pong(1, 5, 59, FAR4, PAYLOAD), 0.0)) == expected
    asked(echo, ping6(seq=5))
    reply = ICMPv6EchoReply(id=77, seq=5, data=PAYLOAD)
    expected = bytes(IPv6(src=FAR6, dst=APP6, hlim=58) / reply)
    assert raw_of(echo.on_pong(Pong(2, 5, 59, FAR6, PAYLOAD), 0.0)) == expected


def test_name_is_asked_for_and_its_virtual_address_answers() -> None:
    names = Names()
    echo = Echo(names)
    assert asked(echo, ping4(VIRTUAL4)).host == "www.example.com"
    reply = echo.on_pong(Pong(1, 1, 64, "www.example.com", PAYLOAD), 0.0)
    assert IP(raw_of(reply)).src == VIRTUAL4
    assert names.pins == 1


def test_another_address_that_answers_does_so_itself() -> None:
    echo = Echo(Names())
    asked(echo, ping4(VIRTUAL4))
    reply = echo.on_pong(Pong(1, 1, 64, "203.0.113.99", PAYLOAD), 0.0)
    assert IP(raw_of(reply)).src == "203.0.113.99"


def test_replies_that_come_twice_go_on_twice() -> None:
    echo = Echo(Names())
    asked(echo, ping4())
    pong = Pong(1, 1, 64, FAR4, PAYLOAD)
    assert echo.on_pong(pong, 0.0) == echo.on_pong(pong, 0.0) != LATE


def test_programs_and_hosts_are_queries_of_their_own() -> None:
    echo = Echo(Names())
    assert asked(echo, ping4()).query == 1
    assert asked(echo, ping4(ident=78)).query == 2
    assert asked(echo, ping4(to="203.0.113.8")).query == 3
    assert asked(echo, ping4(seq=9)).query == 1


def test_error_is_that_of_the_router_about_the_own_packet() -> None:
    echo = Echo(Names())
    sent = ping4(ttl=5)
    asked(echo, sent)
    error = echo.on_unanswered(Unanswered(1, 1, 11, 0, 0, ROUTER4))
    assert raw_of(error) == bytes(
        IP(src=ROUTER4, dst=APP4, id=0) / ICMP(type=11, code=0) / Raw(bytes(sent))
    )
    sent = ping6(hlim=5)
    asked(echo, sent)
    error = echo.on_unanswered(Unanswered(2, 1, 3, 0, 0, ROUTER6))
    assert raw_of(error) == bytes(
        IPv6(src=ROUTER6, dst=APP6, hlim=64) / ICMPv6TimeExceeded() / Raw(bytes(sent))
    )


@pytest.mark.parametrize(("router", "source"), [("", GATEWAY4), ("www.example.com", VIRTUAL4)])
def test_error_of_the_gate_or_the_host_itself(router: str, source: str) -> None:
    echo = Echo(Names())
    asked(echo, ping4(VIRTUAL4))
    error = echo.on_unanswered(Unanswered(1, 1, 3, 13, 0, router))
    assert (IP(raw_of(error)).src, IP(raw_of(error))[ICMP].code) == (source, 13)


def test_error_quotes_the_request_that_it_is_about() -> None:
    echo = Echo(Names())
    for number in (1, 2, 3):
        asked(echo, ping6(seq=number))
    error = echo.on_unanswered(Unanswered(1, 2, 1, 0, 0, ""))
    assert IPv6(raw_of(error)).src == GATEWAY6
    assert bytes(IPv6(raw_of(error))[ICMPv6DestUnreach].payload) == bytes(ping6(seq=2))


@pytest.mark.parametrize(
    "lie",
    [
        Unanswered(9, 1, 3, 1, 0, ""),
        Unanswered(1, 2, 3, 1, 0, ""),
        Unanswered(1, 1, 5, 1, 0, ""),  # redirect
        Unanswered(1, 1, 0, 0, 0, ""),  # echo reply
        Unanswered(1, 1, 3, 1, 0, "2001:db8::1"),
        Unanswered(1, 1, 3, 1, 0, "not an address"),
    ],
)
def test_error_that_cannot_be_is_nothing(lie: Unanswered) -> None:
    echo = Echo(Names())
    asked(echo, ping4())
    assert echo.on_unanswered(lie) == LATE


@pytest.mark.parametrize(
    "lie",
    [
        Pong(9, 1, 64, FAR4, PAYLOAD),
        Pong(1, 1, 64, "2001:db8::1", PAYLOAD),
        Pong(1, 1, 64, "", PAYLOAD),
        Pong(1, 1, 64, FAR4, bytes(65508)),
    ],
)
def test_answer_that_cannot_be_is_nothing(lie: Pong) -> None:
    echo = Echo(Names())
    asked(echo, ping4())
    assert echo.on_pong(lie, 0.0) == LATE


@pytest.mark.parametrize(("request_of", "most"), [(ping4, 65507), (ping6, 65527)])
def test_largest_reply_is_a_packet(request_of: object, most: int) -> None:
    echo = Echo(Names())
    assert callable(request_of)
    query = asked(echo, request_of())
    reply = echo.on_pong(Pong(1, 1, 64, query.host, bytes(most)), 0.0)
    assert len(raw_of(reply)) == most + (28 if most == 65507 else 48)


@pytest.mark.parametrize("gateway", [GATEWAY4, GATEWAY6])
def test_gateway_answers_for_itself(gateway: str) -> None:
    echo = Echo(Names())
    if ":" in gateway:
        sent, reply = ping6(gateway), ICMPv6EchoReply(id=77, seq=1, data=PAYLOAD)
        expected = bytes(IPv6(src=gateway, dst=APP6, hlim=64) / reply)
    else:
        sent, reply = ping4(gateway), ICMP(type=0, id=77, seq=1) / Raw(PAYLOAD)
        expected = bytes(IP(src=gateway, dst=APP4, id=0) / reply)
    assert raw_of(echo.on_request(read(sent), 0.0)) == expected
    assert len(echo) == 0


def test_virtual_address_without_name_is_a_host_that_cannot_be_reached() -> None:
    answer = Echo(Names()).on_request(read(ping4(UNMAPPED4)), 0.0)
    assert (
        IP(raw_of(answer)).src,
        IP(raw_of(answer))[ICMP].type,
        IP(raw_of(answer))[ICMP].code,
    ) == (GATEWAY4, 3, 1)


@pytest.mark.parametrize("sent", [ping4(), ping6()], ids=["IPv4", "IPv6"])
def test_request_that_was_damaged_is_known(sent: ScapyPacket) -> None:
    damaged = bytearray(bytes(sent))
    damaged[-1] ^= 1
    got = packet.read(NO_OFFLOAD + bytes(damaged))
    assert isinstance(got, Packet)
    assert not packet.has_valid_checksum(got)


def test_sum_that_is_still_to_be_made_is_not_looked_at() -> None:
    damaged = bytearray(bytes(ping4()))
    damaged[-1] ^= 1
    got = packet.read(b"\x01" + NO_OFFLOAD[1:] + bytes(damaged))
    assert isinstance(got, Packet)
    assert isinstance(Echo(Names()).on_request(got, 0.0), SendDatagram)


def test_idle_query_is_forgotten_with_its_name() -> None:
    names = Names()
    echo = Echo(names)
    asked(echo, ping4(VIRTUAL4), now=0.0)
    echo.on_pong(Pong(1, 1, 64, "www.example.com", PAYLOAD), 50.0)
    echo.expire(50.0 + IDLE_S)
    assert (len(echo), names.pins) == (1, 1)
    echo.expire(50.1 + IDLE_S)
    assert (len(echo), names.pins) == (0, 0)
    assert echo.on_pong(Pong(1, 1, 64, "www.example.com", PAYLOAD), 120.0) == LATE
    assert asked(echo, ping4(VIRTUAL4), now=120.0).query == 2


def test_one_query_too_many_takes_the_place_of_the_idlest() -> None:
    names = Names()
    echo = Echo(names, max_queries=2)
    asked(echo, ping4(VIRTUAL4, ident=1))
    asked(echo, ping4(ident=2))
    asked(echo, ping4(VIRTUAL4, ident=1))
    asked(echo, ping4(ident=3))
    assert (len(echo), names.pins) == (2, 1)
    assert echo.on_pong(Pong(1, 1, 64, "www.example.com", PAYLOAD), 0.0) != LATE
    assert echo.on_pong(Pong(2, 1, 64, FAR4, PAYLOAD), 0.0) == LATE


def test_query_that_is_answered_is_not_the_idlest() -> None:
    echo = Echo(Names(), max_queries=2)
    asked(echo, ping4(ident=1))
    asked(echo, ping4(ident=2))
    assert echo.on_pong(Pong(1, 1, 64, FAR4, PAYLOAD), 0.0) != LATE
    asked(echo, ping4(ident=3))
    assert echo.on_pong(Pong(1, 1, 64, FAR4, PAYLOAD), 0.0) != LATE
    assert echo.on_pong(Pong(2, 1, 64, FAR4, PAYLOAD), 0.0) == LATE


def test_quotes_are_bounded_and_the_newest_are_kept() -> None:
    echo = Echo(Names(), max_quotes=2)
    for number in (1, 2, 3):
        asked(echo, ping4(seq=number))
    errors = [echo.on_unanswered(Unanswered(1, number, 3, 1, 0, "")) for number in (1, 2, 3)]
    assert [error != LATE for error in errors] == [False, True, True]


def test_numbers_of_a_gate_are_its_own() -> None:
    assert asked(Echo(Names(), generation=3), ping4()).query == first_number(3)


@given(
    st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=1000), st.integers(0, 255)
)
def test_whatever_is_answered_as_it_was_sent_is_what_a_host_would_answer(
    ident: int, seq: int, payload: bytes, hops: int
) -> None:
    echo = Echo(Names())
    sent = IPv6(src=APP6, dst=FAR6) / ICMPv6EchoRequest(id=ident, seq=seq, data=payload)
    query = asked(echo, sent)
    assert (query.sequence, query.payload) == (seq, payload)
    reply = echo.on_pong(Pong(query.query, seq, hops, query.host, query.payload), 0.0)
    expected = IPv6(src=FAR6, dst=APP6, hlim=max(1, hops - 1)) / ICMPv6EchoReply(
        id=ident, seq=seq, data=payload
    )
    assert raw_of(reply) == bytes(expected)
