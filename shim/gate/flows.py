"""The state machine of a captured TCP flow: hold its SYN, ask, release, hand over.

Theory of operation
-------------------
Pure: packets, messages and the time come in as arguments; orders come out.

        SYN                opened                accepted             closed
    ─────────▶  HELD  ──────────────▶ RELEASED ───────────▶ HANDED ───────────▶ (forgotten)
                 │ refused               │ not accepted
                 ▼                       ▼
         RST, ICMP or silence          cancel

- A SYN of an unknown flow is held and the client is asked. Retransmissions are absorbed; the last
  one is kept, because its timestamp (RFC 7323) is the one that gives the kernel a true RTT.
- When the far end has connected, the SYN is released into the flow namespace, where the kernel
  shakes hands. Only then is there a socket, and only then does the client learn of it.
- A SYN of a flow that is handed over is the next flow between the same ports, of which the client
  has not yet said that the one before has ended: a TUN device duplicates nothing.
- Every other segment is forwarded verbatim (`shim.gate.io.packet_path`).
- An application that gives up while its SYN is held sends nothing. Its flow ends as RELEASED
  without an accept, and is cancelled after `ACCEPT_TIMEOUT_S`.

A gate that follows one that was killed knows no flow, but the client does: it has `adopt` called
for each, before anything else happens. Flows that were only held are not among them; their SYN
comes again and is a new flow. Numbers begin with the generation of the gate, so that no two flows
of any gates share one, and an answer to an earlier gate names none here.

Bounds: those of `Limits`; beyond, a SYN is dropped, as if lost on the wire. So a flood of SYNs to
one destination, whose flows are never accepted, leaves room for others. A flow to a virtual address
keeps its name pinned until it is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from shim.gate.orders import (
    Drop,
    Notify,
    Order,
    PassSocket,
    ResetSocket,
    SendClient,
    WriteFlow,
    answer,
)
from shim.gate.targets import GATEWAYS, Targets
from shim.gate.wire import packet
from shim.gate.wire.packet import FlowKey, Packet, destination_of
from shim.protocol.gate import Cancel, DropReason, Open, Reason, first_number

HOLD_TIMEOUT_S: Final = 127.0
"""As long as Linux retransmits a SYN with its default of six tries (tcp(7), tcp_syn_retries)."""

ACCEPT_TIMEOUT_S: Final = 10.0


class State(Enum):
    """The state of a flow; a flow that is forgotten has none."""

    HELD = auto()
    RELEASED = auto()
    HANDED = auto()


@dataclass(slots=True)
class Flow:
    """One flow. `syn` is the packet while it is held, `since` when the state began (seconds)."""

    number: int
    key: FlowKey
    state: State
    since: float
    syn: Packet | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """The most SYNs that wait, those of them to one address and port, and the most flows."""

    held: int = 1024
    alike: int = 256
    flows: int = 32768


class Flows:
    """All flows of a gate."""

    def __init__(
        self,
        names: Targets,
        *,
        is_local: Callable[[Packet], bool],
        generation: int = 1,
        limits: Limits | None = None,
    ) -> None:
        """`is_local` tells whether a SYN is for a connection that the gate itself serves."""
        self._names = names
        self._is_local = is_local
        self._limits = limits or Limits()
        self._by_key: dict[FlowKey, Flow] = {}
        self._by_number: dict[int, Flow] = {}
        self._waiting: dict[int, Flow] = {}
        self._alike: Counter[bytes] = Counter()
        self._first = self._next = first_number(generation)

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def held(self) -> int:
        """How many SYNs wait for the client or for an accept."""
        return len(self._waiting)

    def on_syn(self, syn: Packet, now: float) -> Order | None:
        """An application sent a SYN."""
        flow = self._by_key.get(syn.key)
        if flow is not None and flow.state is State.HELD:
            flow.syn = syn
            return None
        if flow is not None and flow.state is State.RELEASED:
            return WriteFlow(syn.framed)
        if self._is_local(syn):
            return WriteFlow(syn.framed)
        if (
            len(self._waiting) >= self._limits.held
            or self._alike[_place(syn.key)] >= self._limits.alike
            or len(self._by_number) >= self._limits.flows
        ):
            return Drop(DropReason.SYN_LIMIT)
        target = self._names.target(syn.destination)
        if target is None:
            return _rejection(syn, Reason.REFUSED)
        host, name = target
        flow = Flow(self._next, syn.key, State.HELD, now, syn, name)
        self._next += 1
        self._by_key[flow.key] = self._by_number[flow.number] = flow
        self._wait(flow)
        if name is not None:
            self._names.pin(name)
        return SendClient(Open(flow.number, flow.key, host, syn.destination_port))

    def adopt(self, number: int, key: FlowKey, now: float, is_accepted: bool) -> Order | None:
        """Take over a flow of a gate before: as RELEASED, or as HANDED if it is accepted."""
        destination = destination_of(key)
        if number >= self._first or number in self._by_number or destination is None:
            return None
        if len(self._by_number) >= self._limits.flows:
            return None if is_accepted else Notify(Cancel(number))
        _, name = self._names.target(destination) or ("", None)
        flow = Flow(number, key, State.HANDED, now, None, name)
        self._by_number[number] = flow
        if not is_accepted:
            flow.state = State.RELEASED
            self._wait(flow)
        newest = self._by_key.get(key)
        if newest is None or newest.number < number:
            self._by_key[key] = flow
        if name is not None:
            self._names.pin(name)
        return None

    def on_opened(self, number: int, now: float) -> Order | None:
        """The far end has connected. A flow that has been forgotten is cancelled."""
        flow = self._by_number.get(number)
        if flow is None:
            return Notify(Cancel(number)) if number >= self._first else None
        if flow.syn is None:
            return None
        syn, flow.syn = flow.syn, None
        flow.state, flow.since = State.RELEASED, now
        return WriteFlow(syn.framed)

    def on_refused(self, number: int, reason: Reason, now: float) -> Order | None:
        """The far end has not connected."""
        flow = self._by_number.get(number)
        if flow is None or flow.syn is None:
            return None
        self._forget(flow, now)
        return _rejection(flow.syn, reason)

    def on_accepted(self, key: FlowKey, connection: int) -> Order:
        """The kernel has accepted a connection, known by its descriptor."""
        flow = self._by_key.get(key)
        if flow is None or flow.state is not State.RELEASED:
            return ResetSocket(connection)
        flow.state = State.HANDED
        self._wait_no_more(flow)
        return PassSocket(connection, flow.number)

    def on_closed(self, number: int, now: float) -> None:
        """The client is done with a flow, or could not be asked for it."""
        flow = self._by_number.get(number)
        if flow is not None:
            self._forget(flow, now)

    def expire(self, now: float) -> list[Order]:
        """Forget flows that have waited too long for the client or for an accept."""
        orders: list[Order] = []
        for flow in list(self._waiting.values()):
            limit = HOLD_TIMEOUT_S if flow.state is State.HELD else ACCEPT_TIMEOUT_S
            if now - flow.since > limit:
                self._forget(flow, now)
                orders.append(Notify(Cancel(flow.number)))
        return orders

    def _wait(self, flow: Flow) -> None:
        self._waiting[flow.number] = flow
        self._alike[_place(flow.key)] += 1

    def _wait_no_more(self, flow: Flow) -> None:
        if self._waiting.pop(flow.number, None) is not None:
            place = _place(flow.key)
            self._alike[place] -= 1
            if not self._alike[place]:
                del self._alike[place]

    def _forget(self, flow: Flow, now: float) -> None:
        if self._by_key.get(flow.key) is flow:
            del self._by_key[flow.key]
        del self._by_number[flow.number]
        self._wait_no_more(flow)
        if flow.name is not None:
            self._names.unpin(flow.name, now)


def _rejection(syn: Packet, reason: Reason) -> Order | None:
    """Answer a SYN as its destination would have: a RST, an ICMP error, or silence (a timeout)."""
    if reason is Reason.REFUSED:
        return answer(packet.reset(syn))
    if reason is Reason.TIMED_OUT:
        return None
    code = packet.UNREACHABLE_FOR[reason]
    return answer(packet.unreachable(syn, code, GATEWAYS[len(syn.source)]))


def _place(key: FlowKey) -> bytes:
    """Return the destination address and port of a flow."""
    size = (len(key) - 4) // 2
    return key[size : 2 * size] + key[-2:]
