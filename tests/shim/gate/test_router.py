"""The gate's deciders as one dialogue: packets and messages in, orders out."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

import dnslib
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from dns.pool import Pool, buffer_size
from shim.gate import orders
from shim.gate.associations import ONE_WAY_S
from shim.gate.flows import HOLD_TIMEOUT_S
from shim.gate.resolver import WAIT_TIMEOUT_S, Names, Stream
from shim.gate.router import Router
from shim.gate.wire import packet
from shim.gate.wire.fragmentation import KNOWN_S
from shim.gate.wire.reassembly import TIMEOUT_S
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import DEVICE6, GATEWAY4, GATEWAY6, POOL4, POOL6, gate
from shim.protocol.datagrams import Deliver, Forget, Ping, Pong, Send, Unanswered, Undeliverable

APP4, FAR4, FAR6 = "198.18.0.2", "203.0.113.7", "2001:db8::7"
SLOTS, CONNECTION = 16, 77
SERVER = ip_address("192.0.2.53").packed


@pytest.fixture
def names() -> Names:
    memory = memoryview(bytearray(buffer_size(SLOTS)))
    return Names(Pool(memory, IPv4Network(POOL4), IPv6Network(POOL6), b"key", SLOTS))


@pytest.fixture
def router(names: Names) -> Router:
    return Router(names, 1)


def ip(to: str = FAR4, hops: int = 64) -> Layers:
    return IPv6(src=DEVICE6, dst=to, hlim=hops) if ":" in to else IP(src=APP4, dst=to, ttl=hops)


def tcp(flags: str = "S", **fields: object) -> bytes:
    return framed(ip(**fields) / TCP(sport=4000, dport=443, flags=flags))  # type: ignore[arg-type]


def udp(payload: bytes = b"hello", port: int = 7, **fields: object) -> bytes:
    return framed(ip(**fields) / UDP(sport=4000, dport=port) / Raw(payload))  # type: ignore[arg-type]


def framed(layers: Layers) -> bytes:
    return NO_OFFLOAD + bytes(layers)


def question(name: str = "www.example.com", rtype: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, rtype).pack())


def key() -> bytes:
    read = packet.read(tcp())
    assert isinstance(read, packet.Packet)
    return read.key


def one(given: Iterable[orders.Order]) -> orders.Order:
    (order,) = given
    return order


def packet_of(given: Iterable[orders.Order]) -> Layers:
    order = one(given)
    assert isinstance(order, orders.WriteCapture)
    raw = order.framed[len(NO_OFFLOAD) :]
    return IPv6(raw) if raw[0] >> 4 == 6 else IP(raw)


ASKED = orders.SendClient(gate.Open(1, key(), FAR4, 443))


# TCP.


def test_syn_is_asked_of_the_client_and_released_when_the_far_end_has_connected(
    router: Router,
) -> None:
    assert one(router.on_packet(tcp(), 0.0)) == ASKED
    assert one(router.on_message(gate.Opened(1), 0.1)) == orders.WriteFlow(tcp())
    assert router.on_accepted(key(), CONNECTION) == orders.PassSocket(CONNECTION, 1)
    assert list(router.on_message(gate.Closed((1,)), 1.0)) == []
    assert one(router.on_packet(tcp(), 2.0)) == orders.SendClient(gate.Open(2, key(), FAR4, 443))


def test_syn_that_is_refused_is_reset(router: Router) -> None:
    router.on_packet(tcp(), 0.0)
    assert (
        packet_of(router.on_message(gate.Refused(1, gate.Reason.REFUSED), 0.1))[TCP].flags == "RA"
    )
    assert list(router.on_message(gate.Refused(1, gate.Reason.REFUSED), 0.2)) == []


@pytest.mark.parametrize("flags", ["A", "SA", "R", "F", "PA", ""])
def test_segment_that_begins_nothing_is_the_kernels_business(router: Router, flags: str) -> None:
    assert one(router.on_packet(tcp(flags), 0.0)) == orders.WriteFlow(tcp(flags))


@pytest.mark.parametrize("flags", ["SF", "SR", "SRF"])
def test_syn_that_contradicts_itself_is_dropped(router: Router, flags: str) -> None:
    assert one(router.on_packet(tcp(flags), 0.0)) == orders.Drop(gate.DropReason.FLAGS)


def test_syn_to_the_resolver_is_released_at_once(router: Router) -> None:
    sent = framed(ip() / TCP(sport=4000, dport=53, flags="S"))
    assert one(router.on_packet(sent, 0.0)) == orders.WriteFlow(sent)


def test_connection_that_nobody_asked_for_is_reset(router: Router) -> None:
    assert router.on_accepted(key(), CONNECTION) == orders.ResetSocket(CONNECTION)


def test_flows_of_a_gate_before_are_adopted(names: Names) -> None:
    router = Router(names, 2)
    assert list(router.on_message(gate.Adopt((gate.Known(1, key(), False),)), 0.0)) == []
    assert router.on_accepted(key(), CONNECTION) == orders.PassSocket(CONNECTION, 1)
    asked = one(router.on_packet(tcp(), 0.1))
    assert asked == orders.SendClient(gate.Open(gate.first_number(2), key(), FAR4, 443))


# What is no packet for anybody.


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (NO_OFFLOAD, gate.DropReason.SHORT),
        (NO_OFFLOAD + b"\x10" * 40, gate.DropReason.VERSION),
        (udp(to="224.0.0.251"), gate.DropReason.MULTICAST),
        (udp(to="ff02::fb"), gate.DropReason.MULTICAST),
        (framed(ip() / TCP(sport=1, dport=2, chksum=1)), gate.DropReason.CHECKSUM),
        (framed(ip() / ICMP(type=8, chksum=1)), gate.DropReason.CHECKSUM),
        (framed(ip() / UDP(sport=1, dport=53, chksum=1) / b"x"), gate.DropReason.CHECKSUM),
        (framed(ip() / ICMP(type=13, ts_ori=0, ts_rx=0, ts_tx=0)), gate.DropReason.ICMP),
        (framed(ip() / ICMP(type=3, code=3) / bytes(28)), gate.DropReason.ICMP),
        (framed(ip(FAR6) / Raw(b"")), gate.DropReason.NO_NEXT_HEADER),
    ],
    ids=lambda one: one.value if isinstance(one, gate.DropReason) else "packet",
)
def test_packet_that_is_for_nobody_is_dropped_and_counted(
    router: Router, sent: bytes, reason: gate.DropReason
) -> None:
    assert one(router.on_packet(sent, 0.0)) == orders.Drop(reason)


def test_transport_that_is_not_forwarded_is_answered_by_the_gateway(router: Router) -> None:
    error = packet_of(router.on_packet(framed(IP(src=APP4, dst=FAR4, proto=132) / b"sctp"), 0.0))
    assert (error.src, error[ICMP].type, error[ICMP].code) == (GATEWAY4, 3, 2)
    error = packet_of(router.on_packet(framed(IP(src=APP4, dst=FAR4, proto=59) / b"none"), 0.0))
    assert (error.src, error[ICMP].type, error[ICMP].code) == (GATEWAY4, 3, 2)
    error = packet_of(router.on_packet(framed(IPv6(src=DEVICE6, dst=FAR6, nh=132) / b"x"), 0.0))
    assert error.src == GATEWAY6


@pytest.mark.parametrize("make", [tcp, udp])
def test_hop_limit_that_is_used_up_is_told_by_the_gateway(router: Router, make: object) -> None:
    assert callable(make)
    error = packet_of(router.on_packet(make(hops=1), 0.0))
    assert (error.src, error[ICMP].type) == (GATEWAY4, 11)
    error = packet_of(router.on_packet(make(hops=1, to=FAR6), 0.0))
    assert (error.src, ICMPv6TimeExceeded in error) == (GATEWAY6, True)
    assert not isinstance(one(router.on_packet(make(hops=2), 0.0)), orders.WriteCapture)
    assert one(router.on_packet(tcp("A", hops=1, to=GATEWAY4), 0.0)) == orders.WriteFlow(
        tcp("A", hops=1, to=GATEWAY4)
    )


def test_hop_limit_of_an_icmp_error_is_told_by_nobody(router: Router) -> None:
    sent = framed(ip(hops=1) / ICMP(type=3) / bytes(28))
    assert one(router.on_packet(sent, 0.0)) == orders.Drop(gate.DropReason.ICMP)


# UDP and ICMP.


def test_datagram_is_sent_and_answered(router: Router) -> None:
    assert one(router.on_packet(udp(), 0.0)) == orders.SendDatagram(
        Send(1, 4, FAR4, 7, 63, True, b"hello")
    )
    answer = packet_of(router.on_datagram(Deliver(1, FAR4, 7, b"hi"), 0.1))
    assert (answer.src, answer[UDP].sport, bytes(answer[UDP].payload)) == (FAR4, 7, b"hi")
    said = Undeliverable(1, FAR4, 7, 3, 3, 0, FAR4)
    assert packet_of(router.on_datagram(said, 0.2))[ICMP].code == 3


def test_fragments_are_put_together_and_served(router: Router) -> None:
    first, last = fragment(ip() / UDP(sport=4000, dport=7) / Raw(bytes(2000)), fragsize=1200)
    assert list(router.on_packet(framed(first), 0.0)) == []
    order = one(router.on_packet(framed(last), 0.1))
    assert isinstance(order, orders.SendDatagram)
    assert isinstance(order.message, Send)
    assert order.message.payload == bytes(2000)


def test_fragment_of_tcp_is_dropped(router: Router) -> None:
    first = fragment(ip() / TCP(sport=1, dport=2) / Raw(bytes(2000)), fragsize=1200)[0]
    assert one(router.on_packet(framed(first), 0.0)) == orders.Drop(gate.DropReason.FRAGMENT)


def test_fragment_without_the_rest_is_counted_when_its_time_is_over(router: Router) -> None:
    first = fragment(ip() / UDP(sport=4000, dport=7) / Raw(bytes(2000)), fragsize=1200)[0]
    router.on_packet(framed(first), 0.0)
    assert list(router.expire(TIMEOUT_S)) == []
    assert list(router.expire(TIMEOUT_S + 1)) == [orders.Drop(gate.DropReason.FRAGMENT, 1)]
    assert list(router.expire(TIMEOUT_S + 2)) == []


def test_ping_is_asked_of_the_client_and_answered(router: Router) -> None:
    sent = framed(ip(hops=9) / ICMP(type=8, id=7, seq=1) / b"who")
    assert one(router.on_packet(sent, 0.0)) == orders.SendDatagram(
        Ping(1, 4, FAR4, 8, True, 1, b"who")
    )
    assert packet_of(router.on_datagram(Pong(1, 1, 60, FAR4, b"who"), 0.1))[ICMP].type == 0
    assert packet_of(router.on_datagram(Unanswered(1, 1, 11, 0, 0, FAR4), 0.1))[ICMP].type == 11


def test_packet_too_big_is_remembered_for_packets_to_there(router: Router) -> None:
    about = IPv6(src=FAR6, dst=DEVICE6) / UDP(sport=7, dport=4000) / Raw(bytes(2000))
    said = IPv6(src=GATEWAY6, dst=FAR6) / ICMPv6PacketTooBig(mtu=1400) / bytes(about)[:1000]
    large = framed(about)
    assert router.path_mtus.cut(large) == [large]
    assert list(router.on_packet(framed(said), 0.0)) == []
    assert len(router.path_mtus.cut(large)) == 2
    list(router.expire(KNOWN_S + 1))
    assert router.path_mtus.cut(large) == [large]


# Names.


def test_query_in_a_packet_is_answered_in_a_packet(router: Router, names: Names) -> None:
    names.configure(gate.Configure(False, ()))
    reply = packet_of(router.on_packet(udp(question(), 53, to=GATEWAY4), 0.0))
    assert (reply.src, reply.dst) == (GATEWAY4, APP4)
    assert (reply[UDP].sport, reply[UDP].dport) == (53, 4000)
    assert len(dnslib.DNSRecord.parse(bytes(reply[UDP].payload)).rr) == 1


def test_query_on_a_connection_is_answered_there(router: Router, names: Names) -> None:
    names.configure(gate.Configure(True, ()))
    asked = one(router.on_query(question(), Stream(SERVER, 5), 0.0))
    assert asked == orders.SendClient(gate.Lookup(1, "www.example.com", 1))
    reply = one(router.on_message(gate.LookedUp(1, gate.Outcome.NX_DOMAIN), 0.1))
    assert isinstance(reply, orders.ReplyStream)
    assert reply.stream == 5


def test_query_for_the_former_resolver_is_forwarded(router: Router, names: Names) -> None:
    names.configure(gate.Configure(False, ("corp.example",)))
    asked = one(router.on_query(question("home.arpa"), Stream(SERVER, 5), 0.0))
    assert isinstance(asked, orders.SendClient)
    assert isinstance(asked.message, gate.Forward)
    assert (asked.message.server, asked.message.over_tcp) == (SERVER, True)
    assert one(router.on_message(gate.Forwarded(1, b"it said"), 0.1)) == orders.ReplyStream(
        5, b"it said"
    )


def test_pool_is_told_when_it_is_wanted(router: Router) -> None:
    order = one(router.on_message(gate.PoolWanted(9, ""), 0.0))
    assert order == orders.SendClient(gate.PoolState(9, SLOTS, 0, 0, "", (), False))


# A client that does not read.


def test_open_that_was_not_sent_is_forgotten(router: Router) -> None:
    router.on_packet(tcp(), 0.0)
    assert list(router.on_unsent(gate.Open(1, key(), FAR4, 443), 0.0)) == [
        orders.Drop(gate.DropReason.CLIENT)
    ]
    assert one(router.on_packet(tcp(), 1.0)) == orders.SendClient(gate.Open(2, key(), FAR4, 443))


def test_connection_that_was_not_passed_on_is_cancelled(router: Router) -> None:
    router.on_packet(tcp(), 0.0)
    router.on_message(gate.Opened(1), 0.0)
    router.on_accepted(key(), CONNECTION)
    given = list(router.on_unsent(gate.Accepted(1), 0.0))
    assert given == [orders.Drop(gate.DropReason.CLIENT), orders.Notify(gate.Cancel(1))]
    assert router.on_accepted(key(), CONNECTION) == orders.ResetSocket(CONNECTION)


def test_question_that_was_not_sent_is_a_failure(router: Router, names: Names) -> None:
    names.configure(gate.Configure(True, ()))
    asked = one(router.on_query(question(), Stream(SERVER, 5), 0.0))
    assert isinstance(asked, orders.SendClient)
    reply = one(router.on_unsent(asked.message, 0.0))
    assert isinstance(reply, orders.ReplyStream)
    assert dnslib.DNSRecord.parse(reply.message).header.rcode == dnslib.RCODE.SERVFAIL


def test_query_that_was_not_forwarded_is_left_to_be_asked_again(
    router: Router, names: Names
) -> None:
    names.configure(gate.Configure(False, ("corp.example",)))
    asked = one(router.on_query(question("home.arpa"), Stream(SERVER, 5), 0.0))
    assert isinstance(asked, orders.SendClient)
    assert list(router.on_unsent(asked.message, 0.0)) == []
    assert list(router.on_message(gate.Forwarded(1, b"late"), 0.1)) == []


def test_what_nobody_waits_for_needs_nothing_when_it_was_not_sent(router: Router) -> None:
    assert list(router.on_unsent(gate.Configured(), 0.0)) == []
    assert list(router.on_message(gate.Configured(), 0.0)) == []
    assert list(router.on_datagram(gate.Configured(), 0.0)) == []


# Time.


def test_everything_ends_in_its_time(router: Router, names: Names) -> None:
    names.configure(gate.Configure(True, ()))
    router.on_packet(tcp(), 0.0)
    list(router.on_packet(udp(), 0.0))
    router.on_packet(framed(ip() / ICMP(type=8, id=7, seq=1)), 0.0)
    router.on_query(question(), Stream(SERVER, 5), 0.0)
    (reply,) = router.expire(WAIT_TIMEOUT_S + 1)
    assert isinstance(reply, orders.ReplyStream)
    assert list(router.expire(ONE_WAY_S + 1)) == [orders.Notify(Forget(1))]
    assert list(router.expire(HOLD_TIMEOUT_S + 1)) == [orders.Notify(gate.Cancel(1))]
    late = one(router.on_datagram(Pong(1, 1, 60, FAR4, b""), HOLD_TIMEOUT_S + 1))
    assert late == orders.Drop(gate.DropReason.LATE_ECHO)
