"""The resolver of the gate: queries in, answers or questions to the client out.

Pure. It joins three things that know nothing of one another: the `dns` package, which decides and
builds answers; the pool, which maps names to virtual addresses; and the client, which alone can
answer some of them. Questions that wait are bounded; one more is answered SERVFAIL at once, or, if
it was to be passed on, left to be asked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from dns import resolver
from dns.names import from_text, host_name
from dns.pool import Pool
from shim.gate.orders import Order, ReplyStream, SendClient, answer
from shim.gate.targets import Target, is_gateway
from shim.gate.wire import packet
from shim.protocol.gate import (
    Configure,
    Forward,
    Forwarded,
    LookedUp,
    Lookup,
    Outcome,
    PoolState,
    PoolWanted,
    first_number,
)

MAX_WAITING: Final = 4096
WAIT_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Datagram:
    """The packet in which a query came: its addresses (4 or 16 bytes), and the ports of both.

    Not the packet itself: an answer may be long in coming, and a packet is up to 64 KiB.
    """

    server: bytes
    client: bytes
    ports: tuple[int, int]
    """Those of the server and of the client."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The connection on which a query came, by its number, and the address that it leads to."""

    server: bytes
    number: int


Asker = Datagram | Stream
"""Where a query came from, and where its answer goes."""


@dataclass(slots=True)
class _Waiting:
    lookup: resolver.Lookup | None
    """None for a query that goes to the former resolver."""
    asker: Asker
    since: float


class Names:
    """The names of a gate: DNS queries are answered, captured addresses stand for hosts."""

    def __init__(self, pool: Pool, generation: int = 1) -> None:
        self._pool = pool
        self._resolver: resolver.Resolver | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._next = first_number(generation)

    @property
    def is_configured(self) -> bool:
        """Whether the client has sent its settings; before that nothing is answered."""
        return self._resolver is not None

    def configure(self, settings: Configure) -> None:
        """Take the client's settings. Raises ValueError for a suffix that is no name."""
        mode = resolver.Mode.REMOTE if settings.ask_far_end else resolver.Mode.VIRTUAL
        self._resolver = resolver.Resolver(self._pool, mode, settings.suffixes)

    def on_query(self, wire: bytes, asker: Asker, now: float) -> Order | None:
        """An application has sent a DNS message."""
        if self._resolver is None:
            return None
        over_tcp = isinstance(asker, Stream)
        decision = self._resolver.on_query(wire, over_tcp=over_tcp, now=now)
        if isinstance(decision, resolver.Reply):
            return _reply(asker, decision.wire)
        is_full = len(self._waiting) >= MAX_WAITING
        if isinstance(decision, resolver.Lookup):
            if is_full:
                failed = self._resolver.on_outcome(decision, resolver.Outcome.FAILED, b"", now)
                return _reply(asker, failed.wire)
            number = self._wait(_Waiting(decision, asker, now))
            return SendClient(Lookup(number, decision.name, decision.rtype))
        if decision is None or is_full or is_gateway(asker.server):
            # A query to the gate itself has no former resolver to go to.
            return None
        number = self._wait(_Waiting(None, asker, now))
        return SendClient(Forward(number, asker.server, over_tcp, wire))

    def on_looked_up(self, message: LookedUp, now: float) -> Order | None:
        """The far end has answered."""
        waiting = self._waiting.pop(message.query, None)
        if waiting is None or waiting.lookup is None or self._resolver is None:
            return None
        outcome = resolver.Outcome[message.outcome.name]
        found = self._resolver.on_outcome(waiting.lookup, outcome, message.message, now)
        return _reply(waiting.asker, found.wire)

    def on_forwarded(self, message: Forwarded) -> Order | None:
        """The former resolver has answered; an empty answer stays silence."""
        waiting = self._waiting.pop(message.query, None)
        if waiting is None or not message.message:
            return None
        return _reply(waiting.asker, message.message)

    def on_unsent(self, number: int, now: float) -> Order | None:
        """The client could not be asked a question of this number."""
        return self.on_looked_up(LookedUp(number, Outcome.FAILED), now)

    def expire(self, now: float) -> Iterator[Order]:
        """Answer queries that have waited too long for the client."""
        for number, waiting in list(self._waiting.items()):
            if now - waiting.since > WAIT_TIMEOUT_S and (order := self.on_unsent(number, now)):
                yield order

    def on_pool_wanted(self, wanted: PoolWanted, now: float) -> PoolState:
        """Return what the pool has for a host: nothing, if it is neither name nor address."""
        pool, name, found, is_assigned = self._pool, "", None, False
        try:
            name = pool.name_of(ip_address(wanted.host)) or ""
        except ValueError:
            with suppress(ValueError):
                name = host_name(from_text(wanted.host)) or ""
        if name:
            found, is_assigned = pool.peek(name, now)
        addresses = tuple(one.packed for one in found or ())
        counts = (pool.slots, pool.used, pool.pinned)
        return PoolState(wanted.query, *counts, name, addresses, is_assigned)

    def target(self, address: bytes) -> Target | None:
        """Return `(host to ask for, name to pin)`, or None for a virtual address without name.

        The gate's own addresses stand for themselves: the client knows what is behind them.
        """
        ip = ip_address(address)
        if is_gateway(address) or not self._pool.contains(ip):
            return str(ip), None
        name = self._pool.name_of(ip)
        return None if name is None else (name, name)

    def is_virtual(self, address: bytes) -> bool:
        """Whether an address is one of the pool's, with a name or without."""
        return self._pool.contains(ip_address(address))

    def pin(self, name: str) -> None:
        """Keep the address of a name from being given to another."""
        self._pool.pin(name)

    def unpin(self, name: str, now: float) -> None:
        """Undo one `pin`."""
        self._pool.unpin(name, now)

    def _wait(self, waiting: _Waiting) -> int:
        number = self._next
        self._next += 1
        self._waiting[number] = waiting
        return number


def _reply(asker: Asker, wire: bytes) -> Order:
    if isinstance(asker, Stream):
        return ReplyStream(asker.number, wire)
    return answer(packet.datagram(asker.server, asker.client, asker.ports, wire))
