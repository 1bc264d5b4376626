"""A flow as a dialogue: SYNs and messages in, orders out."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from scapy.layers.inet import IP, TCP

from shim.gate import orders
from shim.gate.flows import ACCEPT_TIMEOUT_S, HOLD_TIMEOUT_S, Flows, Limits
from shim.gate.targets import GATEWAYS
from shim.gate.wire import packet
from shim.gate.wire.packet import Packet, Unreachable
from shim.gate.wire.tun import NO_OFFLOAD
from shim.protocol.gate import Cancel, DropReason, Open, Reason, first_number

VIRTUAL = ip_address("198.18.0.77").packed
UNMAPPED = ip_address("198.18.0.78").packed


CONNECTION = 77
"""The descriptor of an accepted connection."""


@dataclass
class FakeNames:
    """One name has an address; everything else stands for itself."""

    pins: list[str] = field(default_factory=list)

    def target(self, address: bytes) -> tuple[str, str | None] | None:
        if address == VIRTUAL:
            return "www.example.com", "www.example.com"
        return None if address == UNMAPPED else (str(ip_address(address)), None)

    def is_virtual(self, address: bytes) -> bool:
        return address in (VIRTUAL, UNMAPPED)

    def pin(self, name: str) -> None:
        self.pins.append(name)

    def unpin(self, name: str, now: float) -> None:
        self.pins.remove(name)


def syn(port: int = 40000, *, to: str = "203.0.113.7", dport: int = 443, seq: int = 1) -> Packet:
    layers = IP(src="198.18.0.2", dst=to) / TCP(sport=port, dport=dport, flags="S", seq=seq)
    result = packet.read(NO_OFFLOAD + bytes(layers))
    assert isinstance(result, Packet)
    return result


def ask(flow: int, key: bytes, host: str, port: int) -> orders.Order:
    return orders.SendClient(Open(flow, key, host, port))


def release(one: Packet) -> orders.Order:
    return orders.WriteFlow(one.framed)


def reset(one: Packet) -> orders.Order:
    return orders.answer(packet.reset(one))


def unreachable(one: Packet, code: Unreachable) -> orders.Order:
    return orders.answer(packet.unreachable(one, code, GATEWAYS[4]))


def give_up(flow: int) -> orders.Order:
    return orders.Notify(Cancel(flow))


def passed(flow: int) -> orders.Order:
    return orders.PassSocket(CONNECTION, flow)


def number_of(order: orders.Order | None) -> int:
    """Return the flow that the client is asked to open."""
    assert isinstance(order, orders.SendClient)
    assert isinstance(order.message, Open)
    return order.message.flow


def is_dns(segment: Packet) -> bool:
    return segment.destination_port == 53


@pytest.fixture
def names() -> FakeNames:
    return FakeNames()


@pytest.fixture
def flows(names: FakeNames) -> Flows:
    return Flows(names, is_local=is_dns, limits=Limits(held=4, flows=8))


def test_new_syn_is_held_and_the_client_asked(flows: Flows) -> None:
    assert flows.on_syn(syn(), 0.0) == ask(1, syn().key, "203.0.113.7", 443)


def test_held_retransmission_is_absorbed_and_the_last_one_released(flows: Flows) -> None:
    flows.on_syn(syn(seq=1), 0.0)
    again = syn(seq=2)
    assert flows.on_syn(again, 1.0) is None
    assert flows.on_opened(1, 2.0) == release(again)


def test_virtual_address_is_asked_for_by_name_and_pinned_until_closed(
    flows: Flows, names: FakeNames
) -> None:
    held = syn(to="198.18.0.77")
    assert flows.on_syn(held, 0.0) == ask(1, held.key, "www.example.com", 443)
    assert names.pins == ["www.example.com"]
    flows.on_opened(1, 0.1)
    assert flows.on_accepted(held.key, CONNECTION) == passed(1)
    assert names.pins == ["www.example.com"]
    flows.on_closed(1, 5.0)
    assert names.pins == []


def test_virtual_address_without_name_is_refused(flows: Flows) -> None:
    held = syn(to="198.18.0.78")
    assert flows.on_syn(held, 0.0) == reset(held)
    assert len(flows) == 0


REJECTIONS = {
    Reason.REFUSED: reset(syn()),
    Reason.HOST_UNREACHABLE: unreachable(syn(), Unreachable.HOST),
    Reason.NET_UNREACHABLE: unreachable(syn(), Unreachable.NET),
    Reason.DENIED: unreachable(syn(), Unreachable.ADMINISTRATIVELY_PROHIBITED),
    Reason.TIMED_OUT: None,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_held_refused_is_rejected_for_that_reason(flows: Flows, reason: Reason) -> None:
    held = syn()
    flows.on_syn(held, 0.0)
    assert flows.on_refused(1, reason, 0.5) == REJECTIONS[reason]
    assert (len(flows), flows.held) == (0, 0)
    assert isinstance(flows.on_syn(held, 1.0), orders.SendClient)


def test_released_retransmission_is_released_too(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    flows.on_opened(1, 0.1)
    assert flows.on_syn(syn(), 0.2) == release(syn())


def test_handed_over_and_a_new_syn_is_the_next_flow(flows: Flows, names: FakeNames) -> None:
    first, again = syn(to="198.18.0.77", seq=1), syn(to="198.18.0.77", seq=2)
    flows.on_syn(first, 0.0)
    flows.on_opened(1, 0.1)
    flows.on_accepted(first.key, CONNECTION)
    assert flows.on_syn(again, 0.2) == ask(2, again.key, "www.example.com", 443)
    flows.on_closed(1, 0.3)
    assert names.pins == ["www.example.com"]
    assert flows.on_opened(2, 0.4) == release(again)
    assert flows.on_accepted(again.key, CONNECTION) == passed(2)


def test_connection_to_the_resolver_is_released_at_once(flows: Flows) -> None:
    query = syn(dport=53)
    assert flows.on_syn(query, 0.0) == release(query)
    assert len(flows) == 0


def test_accept_that_nobody_asked_for_has_no_flow(flows: Flows) -> None:
    assert flows.on_accepted(syn().key, CONNECTION) == orders.ResetSocket(CONNECTION)
    flows.on_syn(syn(), 0.0)
    assert flows.on_accepted(syn().key, CONNECTION) == orders.ResetSocket(CONNECTION)


def test_accepted_twice_has_no_flow_the_second_time(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    flows.on_opened(1, 0.1)
    assert flows.on_accepted(syn().key, CONNECTION) == passed(1)
    assert flows.on_accepted(syn().key, CONNECTION) == orders.ResetSocket(CONNECTION)


def test_released_and_never_accepted_is_given_up(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    flows.on_opened(1, 1.0)
    assert flows.expire(1.0 + ACCEPT_TIMEOUT_S) == []
    assert flows.expire(1.1 + ACCEPT_TIMEOUT_S) == [give_up(1)]
    assert (len(flows), flows.held) == (0, 0)


def test_held_and_never_answered_is_given_up(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    assert flows.expire(HOLD_TIMEOUT_S) == []
    assert flows.expire(HOLD_TIMEOUT_S + 0.1) == [give_up(1)]


def test_handed_over_never_expires(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    flows.on_opened(1, 0.1)
    flows.on_accepted(syn().key, CONNECTION)
    assert flows.expire(1e9) == []
    assert len(flows) == 1


def test_opened_after_it_was_given_up_is_given_up_again(flows: Flows) -> None:
    assert flows.on_opened(99, 0.0) == give_up(99)


def test_refused_after_opened_changes_nothing(flows: Flows) -> None:
    flows.on_syn(syn(), 0.0)
    flows.on_opened(1, 0.1)
    assert flows.on_refused(1, Reason.REFUSED, 0.2) is None
    assert flows.on_accepted(syn().key, CONNECTION) == passed(1)


def test_no_room_for_held_is_a_lost_syn_until_there_is_room(flows: Flows) -> None:
    for port in range(4):
        assert isinstance(flows.on_syn(syn(1000 + port), 0.0), orders.SendClient)
    assert flows.on_syn(syn(2000), 0.0) == orders.Drop(DropReason.SYN_LIMIT)
    flows.on_refused(1, Reason.REFUSED, 0.1)
    assert isinstance(flows.on_syn(syn(2000), 1.0), orders.SendClient)


def test_flood_to_one_place_leaves_room_for_others(names: FakeNames) -> None:
    flows = Flows(names, is_local=is_dns, limits=Limits(alike=2))
    for port in (1000, 1001):
        assert isinstance(flows.on_syn(syn(port), 0.0), orders.SendClient)
    assert flows.on_syn(syn(1002), 0.0) == orders.Drop(DropReason.SYN_LIMIT)
    assert isinstance(flows.on_syn(syn(1002, dport=80), 0.0), orders.SendClient)
    assert isinstance(flows.on_syn(syn(1002, to="203.0.113.8"), 0.0), orders.SendClient)
    flows.on_opened(1, 0.1)
    assert flows.on_syn(syn(1003), 0.1) == orders.Drop(DropReason.SYN_LIMIT)
    assert flows.on_accepted(syn(1000).key, CONNECTION) == passed(1)
    assert isinstance(flows.on_syn(syn(1003), 0.2), orders.SendClient)
    flows.expire(1e9)
    assert not flows._alike


def test_no_room_for_flows_is_a_lost_syn(flows: Flows) -> None:
    for port in range(8):
        held = syn(1000 + port)
        order = flows.on_syn(held, 0.0)
        flows.on_opened(number_of(order), 0.0)
        flows.on_accepted(held.key, CONNECTION)
    assert flows.on_syn(syn(2000), 0.0) == orders.Drop(DropReason.SYN_LIMIT)
    flows.on_closed(3, 0.1)
    assert isinstance(flows.on_syn(syn(2000), 0.0), orders.SendClient)


# After a gate that was killed.


@pytest.fixture
def second(names: FakeNames) -> Flows:
    return Flows(names, is_local=is_dns, generation=2, limits=Limits(held=4, flows=8))


def test_numbers_of_generations_never_meet(flows: Flows, second: Flows) -> None:
    asked = [each.on_syn(syn(port), 0.0) for each in (flows, second) for port in (1, 2, 3)]
    numbers = [number_of(order) for order in asked]
    assert len(set(numbers)) == 6
    assert numbers[3:] == [first_number(2), first_number(2) + 1, first_number(2) + 2]


def test_adopted_as_accepted_is_pinned_until_closed(second: Flows, names: FakeNames) -> None:
    assert second.adopt(1, syn(to="198.18.0.77").key, 0.0, is_accepted=True) is None
    assert names.pins == ["www.example.com"]
    assert second.expire(1e9) == []
    second.on_closed(1, 1.0)
    assert (names.pins, len(second)) == ([], 0)


def test_adopted_before_its_accept_is_released_again_and_handed_over(second: Flows) -> None:
    again = syn(seq=1)
    second.adopt(1, again.key, 0.0, is_accepted=False)
    assert second.on_syn(again, 0.1) == release(again)
    assert second.on_accepted(again.key, CONNECTION) == passed(1)


def test_adopted_and_never_accepted_is_given_up(second: Flows) -> None:
    second.adopt(1, syn().key, 0.0, is_accepted=False)
    assert second.expire(0.1 + ACCEPT_TIMEOUT_S) == [give_up(1)]
    assert (len(second), second.held) == (0, 0)


def test_adopted_and_a_new_syn_is_the_next_flow(second: Flows) -> None:
    second.adopt(1, syn().key, 0.0, is_accepted=True)
    assert second.on_syn(syn(), 0.1) == ask(first_number(2), syn().key, "203.0.113.7", 443)
    second.on_closed(1, 0.2)
    second.on_opened(first_number(2), 0.3)
    assert second.on_accepted(syn().key, CONNECTION) == passed(first_number(2))


def test_adopted_between_the_same_ports_the_newest_is_handed_over(second: Flows) -> None:
    second.adopt(1, syn().key, 0.0, is_accepted=True)
    second.adopt(2, syn().key, 0.0, is_accepted=False)
    assert second.on_accepted(syn().key, CONNECTION) == passed(2)


def test_adopted_late_gives_way_to_the_flow_that_came_since(second: Flows) -> None:
    second.on_syn(syn(), 0.0)
    second.adopt(1, syn().key, 0.1, is_accepted=False)
    assert second.on_opened(first_number(2), 0.2) == release(syn())
    assert second.on_accepted(syn().key, CONNECTION) == passed(first_number(2))


def test_answers_to_the_gate_before_mean_nothing(second: Flows) -> None:
    assert second.on_opened(1, 0.0) is None
    assert second.on_refused(1, Reason.REFUSED, 0.0) is None
    second.adopt(1, syn().key, 0.0, is_accepted=False)
    assert second.on_opened(1, 0.1) is None
    assert second.on_refused(1, Reason.REFUSED, 0.1) is None
    assert second.on_accepted(syn().key, CONNECTION) == passed(1)


@pytest.mark.parametrize(
    ("number", "key"),
    [(first_number(2), syn().key), (1, b""), (1, bytes(13)), (1, bytes(37))],
    ids=["of this gate", "empty", "odd", "long"],
)
def test_what_no_gate_before_can_have_had_is_not_adopted(
    second: Flows, number: int, key: bytes
) -> None:
    assert second.adopt(number, key, 0.0, is_accepted=True) is None
    assert len(second) == 0


def test_adopted_twice_is_one_flow(second: Flows, names: FakeNames) -> None:
    for _ in range(2):
        second.adopt(1, syn(to="198.18.0.77").key, 0.0, is_accepted=True)
    assert (len(second), names.pins) == (1, ["www.example.com"])


def test_no_room_to_adopt_gives_up_what_nobody_has_accepted(second: Flows) -> None:
    for number in range(1, 9):
        second.adopt(number, syn(1000 + number).key, 0.0, is_accepted=True)
    assert second.adopt(9, syn(2000).key, 0.0, is_accepted=True) is None
    assert second.adopt(10, syn(2001).key, 0.0, is_accepted=False) == give_up(10)
    assert len(second) == 8


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: bounds hold, and pins are exactly the live names."""

    def __init__(self) -> None:
        super().__init__()
        self.names = FakeNames()
        self.flows = Flows(self.names, is_local=is_dns, limits=Limits(held=3, flows=5))
        self.now = 0.0

    numbers = st.integers(0, 12)
    ports = st.integers(1, 8)

    @rule(port=ports, virtual=st.booleans())
    def on_syn(self, port: int, virtual: bool) -> None:
        self.flows.on_syn(syn(port, to="198.18.0.77" if virtual else "203.0.113.7"), self.now)

    @rule(number=numbers)
    def on_opened(self, number: int) -> None:
        self.flows.on_opened(number, self.now)

    @rule(number=numbers, reason=st.sampled_from(Reason))
    def on_refused(self, number: int, reason: Reason) -> None:
        self.flows.on_refused(number, reason, self.now)

    @rule(port=ports, virtual=st.booleans())
    def on_accepted(self, port: int, virtual: bool) -> None:
        self.flows.on_accepted(
            syn(port, to="198.18.0.77" if virtual else "203.0.113.7").key, CONNECTION
        )

    @rule(number=numbers)
    def on_closed(self, number: int) -> None:
        self.flows.on_closed(number, self.now)

    @rule(seconds=st.sampled_from([0.5, 20.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.flows.expire(self.now)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.flows.held <= 3
        assert len(self.flows) <= 5
        assert len(self.names.pins) <= len(self.flows)
        if not len(self.flows):
            assert self.names.pins == []


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


class Generations(RuleBasedStateMachine):
    """A client that keeps to the rules, and gates that die at any moment.

    Nothing that was open is lost or taken for something else, and pins are the names in use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generation = 0
        self.now = 0.0
        self.asked: dict[int, bytes] = {}
        self.opened: dict[int, bytes] = {}
        self.accepted: dict[int, bytes] = {}
        self.void: list[int] = []
        self.start()

    def start(self) -> None:
        self.generation += 1
        self.names = FakeNames()
        self.flows = Flows(
            self.names, is_local=is_dns, generation=self.generation, limits=Limits(held=3, flows=5)
        )

    @rule()
    def gate_dies(self) -> None:
        self.void += self.asked
        self.asked.clear()
        self.start()
        for number, key in sorted({**self.opened, **self.accepted}.items()):
            is_accepted = number in self.accepted
            assert self.flows.adopt(number, key, self.now, is_accepted=is_accepted) is None

    @rule(port=st.integers(1, 4), virtual=st.booleans())
    def application_connects(self, port: int, virtual: bool) -> None:
        sent = syn(port, to="198.18.0.77" if virtual else "203.0.113.7")
        order = self.flows.on_syn(sent, self.now)
        if isinstance(order, orders.SendClient):
            number = number_of(order)
            assert number not in {*self.asked, *self.opened, *self.accepted, *self.void}
            assert isinstance(order.message, Open)
            assert order.message.key == sent.key
            self.asked[number] = sent.key

    @rule(pick=st.integers(0, 9), is_open=st.booleans())
    def far_end_answers(self, pick: int, is_open: bool) -> None:
        if not self.asked:
            return
        number = sorted(self.asked)[pick % len(self.asked)]
        key = self.asked.pop(number)
        if is_open:
            self.opened[number] = key
            order = self.flows.on_opened(number, self.now)
            assert isinstance(order, orders.WriteFlow)
            released = packet.read(order.framed)
            assert isinstance(released, Packet)
            assert released.key == key
        else:
            assert self.flows.on_refused(number, Reason.REFUSED, self.now) is not None

    @rule(pick=st.integers(0, 9), is_open=st.booleans())
    def answer_to_a_dead_gate_arrives(self, pick: int, is_open: bool) -> None:
        if self.void:
            number = self.void[pick % len(self.void)]
            if is_open:
                assert self.flows.on_opened(number, self.now) is None
            else:
                assert self.flows.on_refused(number, Reason.REFUSED, self.now) is None

    @rule(port=st.integers(1, 4), virtual=st.booleans())
    def kernel_shakes_hands(self, port: int, virtual: bool) -> None:
        key = syn(port, to="198.18.0.77" if virtual else "203.0.113.7").key
        everything = {**self.asked, **self.opened, **self.accepted}
        newest = max((number for number, one in everything.items() if one == key), default=None)
        order = self.flows.on_accepted(key, CONNECTION)
        if newest in self.opened:
            assert order == passed(newest)
            self.accepted[newest] = self.opened.pop(newest)
        else:
            assert order == orders.ResetSocket(CONNECTION)

    @rule(pick=st.integers(0, 9))
    def client_is_done(self, pick: int) -> None:
        if self.accepted:
            number = sorted(self.accepted)[pick % len(self.accepted)]
            del self.accepted[number]
            self.flows.on_closed(number, self.now)

    @rule(seconds=st.sampled_from([0.5, 20.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for order in self.flows.expire(self.now):
            assert isinstance(order, orders.Notify)
            assert isinstance(order.message, Cancel)
            number = order.message.flow
            assert self.asked.pop(number, None) or self.opened.pop(number, None)

    @invariant()
    def gate_and_client_agree(self) -> None:
        everything = [*self.asked.values(), *self.opened.values(), *self.accepted.values()]
        assert len(self.flows) == len(everything)
        assert self.flows.held == len(self.asked) + len(self.opened)
        assert len(self.names.pins) == sum(VIRTUAL in key for key in everything)


Generations.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestGenerations = Generations.TestCase
