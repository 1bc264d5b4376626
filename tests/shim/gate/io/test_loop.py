"""A gate over sockets in place of devices: what it does before it knows which flows there are."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6TimeExceeded, IPv6
from scapy.packet import Packet as ScapyPacket

from dns.pool import Pool, buffer_size
from shim.gate.io import loop as module
from shim.gate.io.loop import Gate
from shim.gate.resolver import Names
from shim.gate.wire import packet
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol import DEVICE6, GATEWAY4, GATEWAY6, POOL4, POOL6, datagrams
from shim.protocol import gate as messages
from shim.protocol.datagrams import Ping, Pong, Send, Unanswered
from shim.protocol.handover import pair
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError
from shim.protocol.tap import TAP, Copied, Tapped

SLOTS = 16
SETTINGS = messages.Configure(False, ())


class Bench:
    """A running gate of a generation, and the far ends of all that it holds."""

    def __init__(self, generation: int) -> None:
        self.capture, capture = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.flow, flow = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client, gate = pair(messages.CLIENT_OF_GATE, messages.GATE)
        self.links: list[Link] = []
        self.listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        for held in (capture, flow, self.listener):
            held.setblocking(False)
        memory = memoryview(bytearray(buffer_size(SLOTS)))
        names = Names(Pool(memory, IPv4Network(POOL4), IPv6Network(POOL6), b"key", SLOTS))

        def run() -> None:
            args = (capture.fileno(), flow.fileno(), self.listener, gate, names, generation)
            with suppress(LinkClosedError, ViolationError):
                serving = Gate(*args)
                serving.run()
            for held in (capture, flow, self.listener, gate, serving._datagrams):
                held.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def configure(self) -> Link:
        """Send the settings, and return the client's end of the link for datagrams."""
        ours, theirs = pair(datagrams.CLIENT_OF_GATE, datagrams.GATE)
        self.client.send(SETTINGS, (theirs.fileno(),))
        theirs.close()
        self.links.append(ours)
        return ours

    def hear(self) -> tuple[Message, list[int]]:
        """Return what the gate says next to its client."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            received = self.client.receive()
            if received is not None:
                return received
            time.sleep(0.001)
        raise TimeoutError("the gate says nothing")

    def passes(self, framed: bytes, within_s: float = 5.0) -> bool:
        """Say whether the flow device gets what is next, which must be `framed`, by and by."""
        self.flow.settimeout(within_s)
        with suppress(TimeoutError):
            assert self.flow.recv(65536) == framed
            return True
        return False

    def answer(self) -> ScapyPacket:
        """Return the next packet that the gate sends to the captured side."""
        self.capture.settimeout(5)
        raw = self.capture.recv(65536)[len(NO_OFFLOAD) :]
        return IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)

    def close(self) -> None:
        self.client.close()
        self._thread.join(5)
        assert not self._thread.is_alive()
        self.capture.close()
        self.flow.close()
        for link in self.links:
            link.close()


@pytest.fixture
def first() -> Iterator[Bench]:
    bench = Bench(1)
    yield bench
    bench.close()


@pytest.fixture
def second() -> Iterator[Bench]:
    bench = Bench(2)
    yield bench
    bench.close()


def segment(flags: str = "A", hop_limit: int = 64, to: str = "203.0.113.7") -> bytes:
    tcp = TCP(sport=4000, dport=443, flags=flags)
    return NO_OFFLOAD + bytes(IP(src="198.18.0.2", dst=to, ttl=hop_limit) / tcp)


def segment6(flags: str = "A", hop_limit: int = 64) -> bytes:
    tcp = TCP(sport=4000, dport=443, flags=flags)
    return NO_OFFLOAD + bytes(IPv6(src=DEVICE6, dst="2001:db8::7", hlim=hop_limit) / tcp)


def test_first_gate_says_so_and_serves_at_once(first: Bench) -> None:
    assert first.hear() == (messages.Started(1), [])
    first.capture.send(segment())
    assert first.passes(segment())


def test_next_gate_serves_when_it_has_heard_of_the_flows(second: Bench) -> None:
    assert second.hear() == (messages.Started(2), [])
    second.capture.send(segment())
    assert not second.passes(segment(), within_s=0.3)
    second.configure()
    assert second.hear() == (messages.Configured(), [])
    assert second.passes(segment())


def test_segment_of_a_flow_that_nobody_knows_is_left_to_the_kernel(second: Bench) -> None:
    second.configure()
    second.capture.send(segment())
    assert second.passes(segment())
    second.capture.settimeout(0.05)
    with pytest.raises(TimeoutError):
        second.capture.recv(65536)  # no reset of ours


def test_client_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEARN_S", 0.05)
    bench = Bench(2)
    bench.capture.send(segment())
    assert bench.passes(segment())
    bench.close()


def test_connection_in_the_listener_is_handed_over_by_the_next_gate(second: Bench) -> None:
    app = socket.create_connection(second.listener.getsockname()[:2])
    host = ip_address("::1").packed
    key = packet.flow_key(host, host, app.getsockname()[1], app.getpeername()[1])
    second.client.send(messages.Adopt((messages.Known(7, key, False),)))
    second.configure()
    assert second.hear() == (messages.Started(2), [])
    assert second.hear() == (messages.Configured(), [])
    message, (fd,) = second.hear()
    assert message == messages.Accepted(7)
    with socket.socket(fileno=fd) as accepted:
        accepted.sendall(b"through")
        assert app.recv(64) == b"through"
    app.close()


def test_link_for_datagrams_that_ends_is_the_end_of_datagrams_only(first: Bench) -> None:
    first.configure().close()
    assert [first.hear()[0] for _ in range(2)] == [messages.Started(1), messages.Configured()]
    first.capture.send(segment())
    assert first.passes(segment())


def test_link_for_datagrams_that_breaks_a_rule_is_the_end_of_the_gate(first: Bench) -> None:
    assert first.hear() == (messages.Started(1), [])
    # What a client receives, not what it sends.
    first.configure().send(datagrams.Forget(1))
    assert first.hear() == (messages.Configured(), [])
    with pytest.raises(LinkClosedError):
        first.hear()


def test_configure_with_something_that_is_no_link_is_the_end_of_the_gate(first: Bench) -> None:
    assert first.hear() == (messages.Started(1), [])
    first.client.send(SETTINGS, (first.listener.fileno(),))
    with pytest.raises(LinkClosedError):
        first.hear()


def test_syn_that_comes_early_is_asked_about_afterwards(second: Bench) -> None:
    second.capture.send(segment("S"))
    second.configure()
    assert [second.hear()[0] for _ in range(2)] == [messages.Started(2), messages.Configured()]
    asked, _ = second.hear()
    assert isinstance(asked, messages.Open)
    assert (asked.host, asked.port) == ("203.0.113.7", 443)


@pytest.mark.parametrize("flags", ["S", "A"])
def test_segment_with_one_hop_left_gets_no_further_than_the_gateway(
    first: Bench, flags: str
) -> None:
    assert first.hear() == (messages.Started(1), [])
    for sent, gateway, kind in (
        (segment(flags, hop_limit=1), GATEWAY4, ICMP),
        (segment6(flags, hop_limit=1), GATEWAY6, ICMPv6TimeExceeded),
    ):
        first.capture.send(sent)
        answer = first.answer()
        assert (answer.src, answer[kind].code) == (gateway, 0)
        assert bytes(answer[kind].payload) == sent[len(NO_OFFLOAD) :]
    assert not first.passes(segment(), within_s=0.3)
    assert first.client.receive() is None


def test_segment_with_one_hop_left_reaches_the_gateway_itself(first: Bench) -> None:
    first.capture.send(segment("A", hop_limit=1, to=GATEWAY4))
    assert first.passes(segment("A", hop_limit=1, to=GATEWAY4))


def test_segment_with_two_hops_left_passes(first: Bench) -> None:
    for sent in (segment(hop_limit=2), segment6(hop_limit=2)):
        first.capture.send(sent)
        assert first.passes(sent)


def test_expired_error_of_an_application_is_answered_by_nothing(first: Bench) -> None:
    expired = IP(src="198.18.0.2", dst="203.0.113.7", ttl=1) / ICMP(type=3) / bytes(28)
    first.capture.send(NO_OFFLOAD + bytes(expired))
    first.capture.send(segment(hop_limit=1))
    assert first.answer()[ICMP].payload.proto == packet.TCP


def ping(seq: int = 1) -> bytes:
    layers = IP(src="198.18.0.2", dst="203.0.113.7", ttl=9) / ICMP(type=8, id=7, seq=seq) / b"who"
    return NO_OFFLOAD + bytes(layers)


def hear(link: Link) -> Message:
    """Return what the gate says next on the link for datagrams."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        received = link.receive()
        if received is not None:
            return received[0]
        time.sleep(0.001)
    raise TimeoutError("the gate says nothing")


def test_ping_is_asked_of_the_client_and_answered_by_what_it_says(first: Bench) -> None:
    link = first.configure()
    first.hear()
    first.hear()
    first.capture.send(ping())
    assert hear(link) == Ping(1, 4, "203.0.113.7", 8, True, 1, b"who")
    link.send(Pong(1, 1, 60, "203.0.113.7", b"who"))
    reply = first.answer()
    assert (reply.src, reply.ttl, reply[ICMP].type) == ("203.0.113.7", 59, 0)
    assert (reply[ICMP].id, reply[ICMP].seq, bytes(reply[ICMP].payload)) == (7, 1, b"who")
    link.send(Unanswered(1, 1, 11, 0, 0, "203.0.113.1"))
    error = first.answer()
    assert (error.src, error[ICMP].type) == ("203.0.113.1", 11)
    assert bytes(error[ICMP].payload) == ping()[len(NO_OFFLOAD) :]


def test_next_gate_asks_for_a_ping_anew_and_knows_nothing_of_the_one_before(second: Bench) -> None:
    link = second.configure()
    link.send(Pong(1, 1, 60, "203.0.113.7", b"who"))
    second.capture.send(ping(2))
    asked = hear(link)
    assert isinstance(asked, Ping)
    assert asked.query == messages.first_number(2)
    link.send(Pong(asked.query, 2, 60, "203.0.113.7", b"who"))
    assert second.answer()[ICMP].seq == 2


@pytest.mark.parametrize(
    "quiet",
    [
        IPv6(src=DEVICE6, dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
        IPv6(src=DEVICE6, dst="ff02::1:ff00:7", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::7"),
        IPv6(src=DEVICE6, dst="2001:db8::7", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::7"),
        IP(src="198.18.0.2", dst="203.0.113.7") / ICMP(type=13) / bytes(12),
        IP(src="198.18.0.2", dst="203.0.113.7") / ICMP(type=3, code=3) / bytes(28),
    ],
    ids=["router solicitation", "neighbour", "neighbour, unicast", "timestamp", "port unreachable"],
)
def test_icmp_that_is_no_ping_is_answered_by_nothing(first: Bench, quiet: ScapyPacket) -> None:
    link = first.configure()
    first.capture.send(NO_OFFLOAD + bytes(quiet))
    first.capture.send(ping())
    assert isinstance(hear(link), Ping)
    first.capture.settimeout(0.05)
    with pytest.raises(TimeoutError):
        first.capture.recv(65536)


def test_tap_gets_what_passes_in_both_directions_and_what_the_gate_answers(first: Bench) -> None:
    assert first.hear() == (messages.Started(1), [])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        first.client.send(messages.Copy(), (theirs.fileno(),))
    reader = Link(ours, TAP)

    def tapped() -> Message:
        select.select([ours], [], [], 5)
        received = reader.receive()
        assert received is not None
        return received[0]

    def copied() -> tuple[bool, bytes]:
        found = tapped()
        assert isinstance(found, Copied)
        return found.is_outgoing, NO_OFFLOAD + found.packet

    assert tapped() == Tapped()
    first.capture.send(segment())
    assert copied() == (True, segment())
    first.flow.send(segment("FA"))
    assert copied() == (False, segment("FA"))
    first.capture.send(segment(hop_limit=1))
    assert copied() == (True, segment(hop_limit=1))
    is_outgoing, answer = copied()
    assert not is_outgoing
    assert IP(answer[len(NO_OFFLOAD) :])[ICMP].type == 11
    reader.close()
    first.capture.send(segment())
    assert first.passes(segment())
    assert first.passes(segment())


FLOOD = 3000


@pytest.mark.parametrize("is_v6", [False, True], ids=["IPv4", "IPv6"])
def test_datagrams_that_the_client_does_not_read_are_lost_and_nothing_else(
    first: Bench, is_v6: bool
) -> None:
    def sent(payload: bytes, to: str, port: int) -> bytes:
        head = IPv6(src=DEVICE6, dst=to) if is_v6 else IP(src="198.18.0.2", dst=to)
        return NO_OFFLOAD + bytes(head / UDP(sport=4000, dport=port) / payload)

    far, gateway = ("2001:db8::7", GATEWAY6) if is_v6 else ("203.0.113.7", GATEWAY4)
    link = first.configure()
    assert [first.hear()[0] for _ in range(2)] == [messages.Started(1), messages.Configured()]
    for _ in range(FLOOD):
        first.capture.send(sent(b"flood", far, 7000))
    first.capture.send(segment())
    assert first.passes(segment())
    question = bytes(DNS(rd=1, qd=DNSQR(qname="www.example.com")))
    first.capture.send(sent(question, gateway, 53))
    assert first.answer()[UDP].sport == 53
    kept = 0
    while link.receive() is not None:
        kept += 1
    lost = 0
    while kept + lost < FLOOD:
        told = first.hear()[0]
        assert isinstance(told, messages.Dropped)
        assert {count.reason for count in told.counts} == {messages.DropReason.DATAGRAM_LINK}
        lost += sum(count.packets for count in told.counts)
    assert (kept + lost, kept < FLOOD / 2) == (FLOOD, True)
    # Now that it has read, others come through.
    first.capture.send(sent(b"afterwards", far, 7000))
    last = hear(link)
    assert isinstance(last, Send)
    assert last.payload == b"afterwards"


def test_client_hears_once_how_many_packets_were_dropped_and_why(first: Bench) -> None:
    assert first.hear() == (messages.Started(1), [])
    for raw in (b"\x45", b"\x45" * 5, b"\0" * 40):
        first.capture.send(NO_OFFLOAD + raw)
    told: dict[messages.DropReason, int] = {}
    while told != {messages.DropReason.SHORT: 2, messages.DropReason.VERSION: 1}:
        message, _ = first.hear()
        assert isinstance(message, messages.Dropped)
        for one in message.counts:
            told[one.reason] = told.get(one.reason, 0) + one.packets


def test_client_that_was_busy_hears_of_every_flow_that_was_given_up(first: Bench) -> None:
    """Else it would keep them open for ever, and the far end with it."""
    assert first.hear() == (messages.Started(1), [])
    late = range(messages.first_number(1), messages.first_number(1) + 1000)
    for flow in late:
        while not first.client.send(messages.Opened(flow)):
            time.sleep(0.001)
    heard: list[Message] = []
    while len(heard) < len(late):
        message, _ = first.hear()
        if not isinstance(message, messages.Dropped):
            heard.append(message)
    assert sorted(heard, key=str) == sorted(map(messages.Cancel, late), key=str)


def test_every_reason_there_is_fits_into_one_message() -> None:
    most = messages.Dropped(
        tuple(messages.DropCount(reason, 2**63) for reason in messages.DropReason)
    )
    ours, theirs = pair(messages.CLIENT_OF_GATE, messages.GATE)
    assert theirs.send(most)
    assert ours.receive() == (most, [])
    ours.close()
    theirs.close()
