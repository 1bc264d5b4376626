"""ICMP echo of a tunnel: the gate's pings, carried to the echo service over one channel, and back.

A query, the pinging of one host by one program (RFC 5508), is admitted once (`admission`); what is
forbidden never leaves. The channel is opened with the first ping, and again after it was lost. If
it cannot be opened, the gate is told why at once: another server has no such service (prohibited),
or there is no session now (net unreachable). What the session does not take now is lost, and
nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shim.protocol.datagrams import Ping, Pong, Unanswered
from shim.protocol.link import Message
from vpn.client.flows.admission import Admission, Destination
from vpn.client.flows.egress import Egress
from vpn.protocol import echo, icmp
from vpn.protocol.echo import Reply, Request
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.message_channel import MessageChannel
from vpn.protocol.services import ECHO

MAX_QUERIES: Final = 1024
MAX_WAITING: Final = 64
"""Pings kept until the channel is open."""

_HOPS_OF_OUR_OWN: Final = 64


@dataclass(slots=True)
class _Query:
    """The pinging of one host."""

    admission: Admission
    family: int
    """Of IP, 4 or 6."""
    has_result: bool
    """Whether its result is in the report."""

    @property
    def host(self) -> str:
        """The host as the gate names it."""
        return self.admission.destination.host

    @property
    def target(self) -> str:
        """The host as the server is asked for it: the address of a static name."""
        return self.admission.host


class Echo:
    """All pings between a gate and a session."""

    def __init__(self, egress: Egress, send: Callable[[Message], None]) -> None:
        self._egress = egress
        self._send = send
        self._queries: OrderedDict[int, _Query] = OrderedDict()
        self._channel: MessageChannel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[Ping] = []

    def on_ping(self, ping: Ping) -> None:
        """An application has sent an echo request."""
        query = self._query(ping)
        failure = query.admission.failure
        if failure is not None and query.admission.is_forbidden:
            self._refuse(ping, failure)
        elif query.admission.exit == "loopback":
            # The host stands for this machine, which is there.
            self._on_result(query, None)
            self._send(Pong(ping.query, ping.sequence, _HOPS_OF_OUR_OWN, ping.host, ping.payload))
        elif self._channel is not None:
            self._channel.send(echo.encode(_request(ping, query.target)))
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(ping)
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())

    def close(self) -> None:
        """Close the channel."""
        if self._opening is not None:
            self._opening.cancel()
        if self._channel is not None:
            self._channel.end()

    def _query(self, ping: Ping) -> _Query:
        """Return the query of a ping; a new one is admitted, or not."""
        query = self._queries.get(ping.query)
        if query is None or query.host != ping.host:
            admission = self._egress.admit(Destination("icmp", ping.host, echo.NO_PORT))
            query = _Query(admission, ping.family, not admission.decision.allowed)
            if len(self._queries) >= MAX_QUERIES:
                self._queries.popitem(last=False)
            self._queries[ping.query] = query
        self._queries.move_to_end(ping.query)
        return query

    async def _open(self) -> None:
        channel = MessageChannel(echo.MAX_MESSAGE, self._on_message, self._on_channel_end)
        failure: Failure | None = None
        try:
            await self._egress.open_service(ECHO, channel)
        except OpenFailed as failed:
            failure = failed.failure
        self._opening = None
        waiting, self._waiting = self._waiting, []
        if channel.has_ended:
            failure = Failure.UNAVAILABLE
        elif failure is None:
            self._channel = channel
        for ping in waiting:
            if failure is None:
                self.on_ping(ping)
            else:
                self._refuse(ping, failure)

    def _refuse(self, ping: Ping, failure: Failure) -> None:
        query = self._queries.get(ping.query)
        if query is not None:
            self._on_result(query, failure)
        error = echo.error_for(failure, ping.family)
        if error is not None:
            self._send(Unanswered(ping.query, ping.sequence, *error, 0, ""))

    def _on_message(self, message: bytes) -> None:
        """Pass a message of the server on. Raises ValueError if it is none."""
        answer = echo.decode_answer(message)
        query = self._queries.get(answer.query)
        if query is None or query.admission.is_forbidden:
            return
        if isinstance(answer, Reply):
            self._on_result(query, None)
            source = query.host if answer.source == query.target else answer.source
            self._send(
                Pong(answer.query, answer.sequence, answer.hop_limit, source, answer.payload)
            )
            return
        self._on_result(query, icmp.failure_of(answer.kind, answer.code, query.family))
        router = query.host if answer.router == query.target else answer.router
        self._send(
            Unanswered(answer.query, answer.sequence, answer.kind, answer.code, answer.mtu, router)
        )

    def _on_result(self, query: _Query, failure: Failure | None) -> None:
        if not query.has_result and failure is not Failure.ETIMEDOUT:
            query.has_result = True
            self._egress.on_result(query.admission.destination, failure)

    def _on_channel_end(self) -> None:
        """Have the next ping open another channel."""
        self._channel = None


def _request(ping: Ping, target: str) -> Request:
    return Request(
        ping.query,
        ping.family,
        target,
        ping.hop_limit,
        ping.may_fragment,
        ping.sequence,
        ping.payload,
    )
