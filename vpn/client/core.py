"""What `up` and `run` share: a gate's messages answered by a session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Final

from shim.protocol.gate import (
    Accepted,
    Cancel,
    Configure,
    Configured,
    Forward,
    Forwarded,
    LookedUp,
    Lookup,
    Open,
    Started,
)
from shim.protocol.link import Link, Message
from vpn.client.egress import Egress
from vpn.client.flows import Counters, Flows
from vpn.client.forward import Forwarder
from vpn.client.link import AsyncLink, close_all
from vpn.client.resolver import FarResolver
from vpn.client.uplink import Uplink
from vpn.errors import ConfigurationError, OverlayError
from vpn.ssh.services import RESOLVER
from vpn.transport.base import OuterSockets

DNS_PORT: Final = 53

_DRAIN_S: Final = 10.0
_STANDSTILL_S: Final = 1.0
_STEPS: Final = 100


class Core:
    """Serves one gate. A flow that needs a session while there is none is refused by `egress`."""

    def __init__(self, gate: Link, egress: Egress, sockets: OuterSockets) -> None:
        self._egress = egress
        self._forwarder = Forwarder(sockets)
        self._tasks: set[asyncio.Task[None]] = set()
        self._settings: Configure | None = None
        self._configured: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate = AsyncLink(gate, self._on_message)
        self._flows = Flows(egress, self._gate.send)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the gate has gone."""
        return self._gate.closed

    @property
    def counters(self) -> Counters:
        """What has happened so far."""
        return self._flows.counters

    async def configure(self, settings: Configure) -> None:
        """Tell the gate how names are answered, and wait until it does; before, it answers none.

        Raises OverlayError if the gate goes first.
        """
        self._settings = settings
        self._gate.send(settings)
        ends: tuple[asyncio.Future[None], ...] = (self._configured, self._gate.closed)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._configured.done():
            raise OverlayError("the gate has ended; run 'overlay-vpn recover', then again")

    async def drain(self) -> None:
        """Let what was written before the end arrive: until no flow has anything left to bring.

        For at most `_DRAIN_S`, and no longer than it goes on.
        """
        deadline_s, sent = time.monotonic() + _DRAIN_S, -1
        while self.counters.active and time.monotonic() < deadline_s:
            if self.counters.bytes_up == sent:
                return
            sent = self.counters.bytes_up
            for _ in range(_STEPS):
                if self.counters.active:
                    await asyncio.sleep(_STANDSTILL_S / _STEPS)

    def abort(self) -> None:
        """Reset every flow, and ask nobody any more."""
        self._flows.abort()
        self._egress.close()

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Started(generation):
                self._on_started(generation)
            case Open():
                self._flows.on_open(message)
            case Configured() if not self._configured.done():
                self._configured.set_result(None)
            case Accepted(flow):
                self._flows.on_accepted(flow, fds[0])
            case Cancel():
                self._flows.on_cancel(message)
            case Lookup():
                self._start(self._look_up(message))
            case Forward():
                self._start(self._forward(message))
            case _:
                close_all(fds)

    def _on_started(self, generation: int) -> None:
        """A new gate: if it follows another one, it is told everything anew."""
        if generation > 1 and self._settings is not None:
            self._flows.on_started()
            self._gate.send(self._settings)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, question: Lookup) -> None:
        self._gate.send(LookedUp(question.query, await self._egress.ask(question)))

    async def _forward(self, question: Forward) -> None:
        self._gate.send(Forwarded(question.query, await self._forwarder.ask(question)))


def resolver_for(session: Uplink, dns: str, dns_server: str | None) -> FarResolver | None:
    """Return who is asked about names, None in mode `virtual`. Raises ConfigurationError.

    `dns` is `virtual`, `remote`, or empty for `remote` where the far end can be asked.
    """
    can_ask = dns_server is not None or session.is_overlay_server
    if dns == "virtual" or (dns == "" and not can_ask):
        return None
    if not can_ask:
        raise ConfigurationError(
            "this server has no resolver of ours to ask; name one with --dns-server"
        )
    host, port = RESOLVER if dns_server is None else (dns_server, DNS_PORT)
    return FarResolver(lambda: session.open_stream(host, port))
