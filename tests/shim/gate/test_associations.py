"""Associations as RFC 4787 asks: packets in, messages out, and the other way round."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from shim.gate import associations
from shim.gate.associations import MAX_NAMES, ONE_WAY_S, TWO_WAY_S, Associations
from shim.gate.orders import Drop, Notify, Order, SendDatagram, WriteCapture
from shim.gate.wire import packet
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import DEVICE4, DEVICE6, GATEWAY4, GATEWAY6
from shim.protocol.datagrams import Deliver, Forget, Send, Undeliverable
from shim.protocol.gate import DropReason, first_number

FAR4, FAR6 = "203.0.113.7", "2001:db8::7"
VIRTUAL4, UNMAPPED4 = "198.18.5.5", "198.18.9.9"
NAME = "www.example.com"


class Names:
    """A pool with one name, which counts its pins."""

    def __init__(self) -> None:
        self.known = {ip_address(VIRTUAL4).packed: NAME}
        self.pins: list[str] = []

    def target(self, address: bytes) -> tuple[str, str | None] | None:
        if not self.is_virtual(address) or address == ip_address(GATEWAY4).packed:
            return str(ip_address(address)), None
        name = self.known.get(address)
        return None if name is None else (name, name)

    def is_virtual(self, address: bytes) -> bool:
        return address[:2] == b"\xc6\x12" or address[:2] == b"\xfd\x6f"

    def pin(self, name: str) -> None:
        self.pins.append(name)

    def unpin(self, name: str, now: float) -> None:
        self.pins.remove(name)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def gate(names: Names) -> Associations:
    return Associations(names, max_associations=3)


def sent(
    to: str = FAR4, port: int = 7, sport: int = 4000, data: bytes = b"hello", **fields: object
) -> packet.Packet:
    if ":" in to:
        layers = IPv6(src=DEVICE6, dst=to, **fields) / UDP(sport=sport, dport=port) / Raw(data)
    else:
        layers = IP(src=DEVICE4, dst=to, **fields) / UDP(sport=sport, dport=port) / Raw(data)
    read = packet.read(NO_OFFLOAD + bytes(layers))
    assert isinstance(read, packet.Packet)
    return read


def ask(gate: Associations, one: packet.Packet, now: float = 0.0) -> list[Order]:
    return list(gate.on_datagram(one, now))


def datagram_of(order: Order) -> Send:
    assert isinstance(order, SendDatagram)
    assert isinstance(order.message, Send)
    return order.message


def begin(gate: Associations, now: float = 0.0, **fields: object) -> int:
    *_, order = ask(gate, sent(**fields), now)  # type: ignore[arg-type]
    return datagram_of(order).association


def packet_of(order: Order) -> Layers:
    assert isinstance(order, WriteCapture)
    raw = order.framed[10:]
    return IPv6(raw) if raw[0] >> 4 == 6 else IP(raw)


def forget(number: int) -> Order:
    return Notify(Forget(number))


LATE = Drop(DropReason.LATE_DATAGRAM)


# Out.


def test_datagram_is_sent_with_one_hop_less() -> None:
    gate = Associations(Names(), generation=2)
    number = first_number(2)
    assert ask(gate, sent(ttl=9)) == [SendDatagram(Send(number, 4, FAR4, 7, 8, True, b"hello"))]
    assert ask(gate, sent(FAR6, hlim=64)) == [
        SendDatagram(Send(number + 1, 6, FAR6, 7, 63, False, b"hello"))
    ]


@pytest.mark.parametrize(
    ("flags", "size", "may_fragment"),
    [("DF", 100, False), (0, 100, True), ("DF", 1472, False), ("DF", 1473, True)],
)
def test_flag_against_fragments_counts_where_a_usual_link_carries_the_packet(
    gate: Associations, flags: object, size: int, may_fragment: bool
) -> None:
    (order,) = ask(gate, sent(flags=flags, data=bytes(size)))
    assert datagram_of(order).may_fragment is may_fragment


def test_one_socket_is_one_association_whomever_it_sends_to(gate: Associations) -> None:
    first = begin(gate)
    assert begin(gate, to="192.0.2.99", port=53000) == first
    assert begin(gate, to=VIRTUAL4) == first
    assert begin(gate, sport=4001) != first
    assert len(gate) == 2


def test_virtual_address_is_sent_to_by_name_which_is_pinned(
    gate: Associations, names: Names
) -> None:
    (order,) = ask(gate, sent(VIRTUAL4))
    number = datagram_of(order).association
    assert datagram_of(order).host == NAME
    ask(gate, sent(VIRTUAL4))
    assert names.pins == [NAME]
    assert gate.expire(ONE_WAY_S + 1) == [forget(number)]
    assert names.pins == []


@pytest.mark.parametrize("to", [UNMAPPED4, GATEWAY4, GATEWAY6])
def test_address_with_nobody_behind_it_is_a_closed_port(gate: Associations, to: str) -> None:
    (order,) = ask(gate, sent(to))
    error = packet_of(order)
    if ":" in to:
        assert error[ICMPv6DestUnreach].code == 4
    else:
        assert (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert len(gate) == 0


def test_payload_that_was_damaged_is_dropped(gate: Associations) -> None:
    layers = IP(src=DEVICE4, dst=FAR4) / UDP(sport=1, dport=2, chksum=0x1234) / Raw(b"hello")
    read = packet.read(NO_OFFLOAD + bytes(layers))
    assert isinstance(read, packet.Packet)
    assert ask(gate, read) == [Drop(DropReason.CHECKSUM)]


def test_checksum_that_is_still_to_be_filled_in_is_nobodys_business(gate: Associations) -> None:
    layers = IP(src=DEVICE4, dst=FAR4) / UDP(sport=1, dport=2, chksum=0x1234) / Raw(b"hello")
    read = packet.read(b"\x01" + NO_OFFLOAD[1:] + bytes(layers))
    assert isinstance(read, packet.Packet)
    (order,) = ask(gate, read)
    assert datagram_of(order).payload == b"hello"


@pytest.mark.parametrize(("to", "is_whole"), [(FAR4, True), (FAR6, False)])
def test_checksum_may_be_left_out_over_ipv4_only(
    gate: Associations, to: str, is_whole: bool
) -> None:
    one = sent(to)
    raw = one.raw[: one.transport + 6] + bytes(2) + one.raw[one.transport + 8 :]
    read = packet.read(NO_OFFLOAD + raw)
    assert isinstance(read, packet.Packet)
    orders = ask(gate, read)
    assert [isinstance(order, SendDatagram) for order in orders] == [is_whole]


# In.


def test_answer_comes_from_whom_was_asked(gate: Associations) -> None:
    number = begin(gate)
    answer = packet_of(gate.on_deliver(Deliver(number, FAR4, 7, b"hi"), 1.0))
    assert (answer[IP].src, answer[IP].dst) == (FAR4, DEVICE4)
    assert (answer[UDP].sport, answer[UDP].dport) == (7, 4000)
    assert answer[Raw].load == b"hi"


def test_answer_of_a_name_comes_from_its_virtual_address_on_any_port(gate: Associations) -> None:
    number = begin(gate, to=VIRTUAL4)
    answer = packet_of(gate.on_deliver(Deliver(number, NAME, 40000, b"hi"), 1.0))
    assert (answer[IP].src, answer[UDP].sport) == (VIRTUAL4, 40000)


def test_whoever_was_not_asked_is_delivered_from_his_own_address(gate: Associations) -> None:
    number = begin(gate, to=VIRTUAL4)
    answer = packet_of(gate.on_deliver(Deliver(number, "192.0.2.200", 9999, b"hi"), 1.0))
    assert (answer[IP].src, answer[UDP].sport) == ("192.0.2.200", 9999)


@pytest.mark.parametrize("size", [0, 1, 1400, 65507])
@pytest.mark.parametrize("to", [FAR4, FAR6])
def test_packet_that_is_delivered_is_one_when_the_kernel_has_summed_it(
    gate: Associations, to: str, size: int
) -> None:
    number = begin(gate, to=to)
    answer = gate.on_deliver(Deliver(number, to, 7, bytes(size)), 1.0)
    assert isinstance(answer, WriteCapture)
    flags, _, _, _, start, offset = associations.udp.struct.unpack("=BBHHHH", answer.framed[:10])
    raw = bytearray(answer.framed[10:])
    assert flags == 1
    # As the kernel does it: what is in place already is part of the sum.
    at = start + offset
    raw[at : at + 2] = packet.checksum(bytes(raw[start:])).to_bytes(2)
    made = IPv6(bytes(raw)) if ":" in to else IP(bytes(raw))
    expected = made.copy()
    del expected[UDP].chksum
    assert made[UDP].chksum == type(made)(bytes(expected))[UDP].chksum
    read = packet.read(NO_OFFLOAD + bytes(raw))
    assert isinstance(read, packet.Packet)
    assert read.datagram == bytes(size)


@pytest.mark.parametrize(
    "host",
    [
        "other.example.com",
        UNMAPPED4,
        VIRTUAL4,
        GATEWAY4,
        DEVICE4,
        FAR6,
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "",
        "\0",
    ],
)
def test_answer_from_where_none_can_come_is_dropped(gate: Associations, host: str) -> None:
    number = begin(gate)
    assert gate.on_deliver(Deliver(number, host, 7, b"hi"), 1.0) == LATE


@pytest.mark.parametrize(("to", "most"), [(FAR4, 65507), (FAR6, 65527)])
def test_answer_that_no_packet_holds_is_dropped(gate: Associations, to: str, most: int) -> None:
    number = begin(gate, to=to)
    whole = gate.on_deliver(Deliver(number, to, 53, bytes(most)), 0.0)
    assert len(bytes(packet_of(whole)[UDP].payload)) == most
    if most < 65527:
        assert gate.on_deliver(Deliver(number, to, 53, bytes(most + 1)), 0.0) == Drop(
            DropReason.LENGTH
        )


def test_answer_for_nobody_is_dropped(gate: Associations) -> None:
    assert gate.on_deliver(Deliver(1, FAR4, 7, b"hi"), 1.0) == LATE
    begin(gate)
    assert gate.on_deliver(Deliver(99, FAR4, 7, b"hi"), 1.0) == LATE


# Errors.


def test_closed_port_is_told_by_the_one_whose_it_is(gate: Associations) -> None:
    number = begin(gate, to=VIRTUAL4)
    error = packet_of(gate.on_undeliverable(Undeliverable(number, NAME, 7, 3, 3, 0, NAME)))
    assert error[IP].src == VIRTUAL4
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert (error[IPerror].src, error[IPerror].dst) == (DEVICE4, VIRTUAL4)
    assert (error[UDPerror].sport, error[UDPerror].dport) == (4000, 7)


def test_expired_hop_limit_is_told_by_the_router(gate: Associations) -> None:
    number = begin(gate)
    said = Undeliverable(number, FAR4, 7, 11, 0, 0, "192.0.2.1")
    error = packet_of(gate.on_undeliverable(said))
    assert (error[IP].src, error[ICMP].type) == ("192.0.2.1", 11)
    number = begin(gate, to=FAR6)
    said = Undeliverable(number, FAR6, 7, 3, 0, 0, "2001:db8::1")
    error = packet_of(gate.on_undeliverable(said))
    assert error[IPv6].src == "2001:db8::1"
    assert ICMPv6TimeExceeded in error


def test_packet_too_big_says_what_fits(gate: Associations) -> None:
    number = begin(gate)
    error = packet_of(gate.on_undeliverable(Undeliverable(number, FAR4, 7, 3, 4, 1280, "")))
    assert (error[IP].src, error[ICMP].nexthopmtu) == (GATEWAY4, 1280)
    number = begin(gate, to=FAR6)
    error = packet_of(gate.on_undeliverable(Undeliverable(number, FAR6, 7, 2, 0, 1280, "")))
    assert (error[IPv6].src, error[ICMPv6PacketTooBig].mtu) == (GATEWAY6, 1280)


def test_error_quotes_the_packet_that_was_sent_last_there(gate: Associations) -> None:
    begin(gate, id=1)
    number = begin(gate, id=2)
    begin(gate, to="192.0.2.99", id=3)
    error = packet_of(gate.on_undeliverable(Undeliverable(number, FAR4, 7, 3, 3, 0, FAR4)))
    assert error[IPerror].id == 2


@pytest.mark.parametrize("router", [UNMAPPED4, "224.0.0.1", FAR6, "nobody", "127.0.0.1"])
def test_router_that_can_be_none_is_the_gate_itself(gate: Associations, router: str) -> None:
    number = begin(gate)
    error = packet_of(gate.on_undeliverable(Undeliverable(number, FAR4, 7, 3, 1, 0, router)))
    assert error[IP].src == GATEWAY4


@pytest.mark.parametrize(
    ("host", "port", "kind"),
    [(FAR4, 8, 3), ("192.0.2.99", 7, 3), (FAR4, 7, 5), (FAR4, 7, 0), (FAR4, 7, 8), (FAR6, 7, 1)],
)
def test_error_about_nothing_that_was_sent_or_of_no_error_type_is_dropped(
    gate: Associations, host: str, port: int, kind: int
) -> None:
    number = begin(gate)
    assert gate.on_undeliverable(Undeliverable(number, host, port, kind, 0, 0, "")) == LATE


# Time and room.


def test_association_that_was_never_answered_lives_as_long_as_it_asks(gate: Associations) -> None:
    number = begin(gate)
    begin(gate, 50.0)
    assert gate.expire(50.0 + ONE_WAY_S) == []
    assert gate.expire(50.1 + ONE_WAY_S) == [forget(number)]
    assert gate.expire(50.2 + ONE_WAY_S) == []
    assert begin(gate, 200.0) == number + 1


def test_association_that_was_answered_lives_longer(gate: Associations) -> None:
    number = begin(gate)
    gate.on_deliver(Deliver(number, FAR4, 7, b""), 10.0)
    assert gate.expire(10.0 + TWO_WAY_S) == []
    assert gate.expire(10.1 + TWO_WAY_S) == [forget(number)]
    assert gate.on_deliver(Deliver(number, FAR4, 7, b""), 400.0) == LATE


def test_one_more_than_there_is_room_for_ends_the_idlest_that_was_never_answered(
    gate: Associations,
) -> None:
    first, second = begin(gate, 1.0, sport=1), begin(gate, 2.0, sport=2)
    begin(gate, 3.0, sport=3)
    gate.on_deliver(Deliver(first, FAR4, 7, b""), 3.5)
    ended, order = ask(gate, sent(sport=4), 4.0)
    assert ended == forget(second)
    assert datagram_of(order).association not in (first, second)
    assert len(gate) == 3


def test_one_more_than_there_is_room_for_ends_none_that_was_answered(gate: Associations) -> None:
    for sport in (1, 2, 3):
        gate.on_deliver(Deliver(begin(gate, sport=sport), FAR4, 7, b""), 0.0)
    assert ask(gate, sent(sport=4)) == [Drop(DropReason.ASSOCIATION_LIMIT)]


def test_names_of_an_association_are_bounded_and_the_oldest_is_let_go(names: Names) -> None:
    gate = Associations(names)
    for number in range(MAX_NAMES + 1):
        address = ip_address(f"198.18.6.{number}")
        names.known[address.packed] = f"n{number}"
        begin(gate, to=str(address))
    assert names.pins == [f"n{number}" for number in range(1, MAX_NAMES + 1)]


def test_quotes_are_bounded_and_the_newest_is_kept(
    gate: Associations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associations, "MAX_QUOTES", 2)
    for port in (1, 2, 3):
        number = begin(gate, port=port)
    assert gate.on_undeliverable(Undeliverable(number, FAR4, 1, 3, 3, 0, "")) == LATE
    for port in (2, 3):
        assert gate.on_undeliverable(Undeliverable(number, FAR4, port, 3, 3, 0, "")) != LATE


def test_quote_that_is_made_anew_is_the_newest(
    gate: Associations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associations, "MAX_QUOTES", 2)
    for port in (1, 2, 1, 3):
        number = begin(gate, port=port)
    assert gate.on_undeliverable(Undeliverable(number, FAR4, 1, 3, 3, 0, "")) != LATE
    assert gate.on_undeliverable(Undeliverable(number, FAR4, 2, 3, 3, 0, "")) == LATE


def test_what_is_quoted_is_an_error_to_the_kernel_and_not_more(gate: Associations) -> None:
    number = begin(gate, data=bytes(1400))
    error = packet_of(gate.on_undeliverable(Undeliverable(number, FAR4, 7, 3, 3, 0, "")))
    assert ICMPerror not in error
    assert TCP not in error
    assert len(error) < 200
