"""The resolver of the gate: queries in, answers or questions to the client out.

Pure. It joins three things that know nothing of one another: the `dns` package, which decides and
builds answers; the pool, which maps names to virtual addresses; and the links, which carry what
only the client can answer. Questions that wait are bounded; one more is answered SERVFAIL at once,
or, if it was to be passed on, left to be asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from dns import resolver
from dns.names import from_text, host_name
from dns.pool import Pool
from shim.protocol import GATEWAY4, GATEWAY6
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

_OWN: Final = frozenset({IPv4Address(GATEWAY4).packed, IPv6Address(GATEWAY6).packed})


@dataclass(slots=True)
class _Waiting:
    lookup: resolver.Lookup | None
    reply: Callable[[bytes], None]
    since: float


class Names:
    """Answers DNS messages for the gate, and says which host a captured address stands for."""

    def __init__(self, pool: Pool, generation: int = 1) -> None:
        self._pool = pool
        self._resolver: resolver.Resolver | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._next = first_number(generation)

    @property
    def is_configured(self) -> bool:
        """Whether names are answered."""
        return self._resolver is not None

    def configure(self, settings: Configure) -> None:
        """Take the client's settings. Before that nothing is answered."""
        mode = resolver.Mode.REMOTE if settings.ask_far_end else resolver.Mode.VIRTUAL
        self._resolver = resolver.Resolver(self._pool, mode, settings.suffixes)

    def on_query(
        self,
        wire: bytes,
        server: bytes,
        *,
        over_tcp: bool,
        now: float,
        reply: Callable[[bytes], None],
    ) -> Lookup | Forward | None:
        """A DNS message was sent to `server`. `reply` is called once, or never.

        Returns what the client has to be asked.
        """
        if self._resolver is None:
            return None
        decision = self._resolver.on_query(wire, over_tcp=over_tcp, now=now)
        if isinstance(decision, resolver.Reply):
            reply(decision.wire)
            return None
        is_full = len(self._waiting) >= MAX_WAITING
        if isinstance(decision, resolver.Lookup):
            if is_full:
                reply(self._resolver.on_outcome(decision, resolver.Outcome.FAILED, b"", now).wire)
                return None
            number = self._wait(_Waiting(decision, reply, now))
            return Lookup(number, decision.name, decision.rtype)
        if isinstance(decision, resolver.Ignore) or is_full or server in _OWN:
            # The gate is nobody's former resolver: there is nowhere to forward to.
            return None
        return Forward(self._wait(_Waiting(None, reply, now)), server, over_tcp, wire)

    def on_looked_up(self, message: LookedUp, now: float) -> None:
        """The far end has answered."""
        waiting = self._waiting.pop(message.query, None)
        if waiting is None or waiting.lookup is None or self._resolver is None:
            return
        outcome = resolver.Outcome[message.outcome.name]
        answer = self._resolver.on_outcome(waiting.lookup, outcome, message.message, now)
        waiting.reply(answer.wire)

    def on_forwarded(self, message: Forwarded) -> None:
        """The former resolver has answered; an empty answer stays silence."""
        waiting = self._waiting.pop(message.query, None)
        if waiting is not None and message.message:
            waiting.reply(message.message)

    def on_unsent(self, number: int, now: float) -> None:
        """The client could not be asked."""
        self.on_looked_up(LookedUp(number, Outcome.FAILED), now)

    def expire(self, now: float) -> None:
        """Answer what has waited too long."""
        for number, waiting in list(self._waiting.items()):
            if now - waiting.since > WAIT_TIMEOUT_S:
                self.on_unsent(number, now)

    def on_pool_wanted(self, wanted: PoolWanted, now: float) -> PoolState:
        """Say what the pool has for a host; nothing for what is none."""
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

    def target(self, address: bytes) -> tuple[str, str | None] | None:
        """Return `(host to ask for, name to pin)`, or None for a virtual address without name.

        The gate's own addresses stand for themselves: the client knows what is behind them.
        """
        ip = ip_address(address)
        if address in _OWN or not self._pool.contains(ip):
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
