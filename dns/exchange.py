"""One query, asked of DNS servers in turn until one of them has answered: the stub client.

Theory of operation
-------------------
Octets and times come in, orders go out. Whoever has the sockets (`vpn.stub_resolver`) does what an
`Ask` says, reports what arrives, fails or is due, and stops at `Done`.

Each server has one turn. A turn begins on a new socket, so with a source port of its own, and with
an identifier of its own (RFC 5452 §9.2). The query goes out over UDP `sends` times, `timeout_s`
apart, on that socket and with that identifier: an answer to an earlier copy is as good. A truncated
answer moves the turn to TCP (RFC 7766 §5), which gets as much time as all copies. A turn is over

- with an answer: so is the exchange, unless the response code says that this server cannot tell
  (`_CANNOT_TELL`); then the next one is asked, and the answer is kept in case none has a better;
- without one, when the time is up, the socket has failed or the connection has ended.

Only what repeats the identifier and the question is an answer (`dns.upstream.is_answer`). Anything
else is ignored and buys no time: a turn ends when it was due, whatever arrives. At most one message
of 65535 octets waits to be complete.

A query that is relayed for somebody else keeps to the protocol over which it came, as it is the
asker who has to see a truncated answer, and keeps the asker's identifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from dns.codes import RCode
from dns.framing import Framing, frame
from dns.upstream import is_answer
from dns.wire import HEADER, TC, read_question

_CANNOT_TELL: Final = (RCode.FORMERR, RCode.SERVFAIL, RCode.NOTIMP, RCode.REFUSED)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `octets` to a server: on a new socket, or on the one of this turn where it `is_again`.

    Sockets of earlier turns are to be closed.
    """

    server: str
    over_tcp: bool
    octets: bytes
    is_again: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The exchange is over. `answer` is None if no server has given one."""

    answer: bytes | None


Order = Ask | Done | None
"""None: go on waiting."""


class Exchange:
    """The exchange of one query. Answers come back with the identifier that `query` has.

    `query` is a message with one question, which may have any identifier. `servers` are addresses
    as text. `idents` returns random identifiers; without it the one of `query` is sent.
    `over_tcp` keeps to TCP (True) or UDP (False). Raises WireError if the question cannot be read.
    """

    def __init__(
        self,
        query: bytes,
        servers: Iterable[str],
        timeout_s: float,
        *,
        sends: int = 1,
        idents: Callable[[], int] | None = None,
        over_tcp: bool | None = None,
    ) -> None:
        read_question(query)
        self._query = self._sent = query
        self._servers = iter(servers)
        self._server = ""
        self._timeout_s = timeout_s
        self._sends = sends
        self._sends_left = 0
        self._idents = idents
        self._protocol = over_tcp
        self._framing = Framing()
        self.over_tcp = bool(over_tcp)
        """Whether the turn is at TCP."""
        self.deadline_s = 0.0
        """When `on_time` is to be called, on the clock of all the times given."""
        self.answer: bytes | None = None
        """The best answer as yet."""

    def start(self, now: float) -> Ask | Done:
        """Begin with the first server."""
        return self._next_turn(now)

    def on_octets(self, octets: bytes, now: float) -> Order:
        """A datagram has arrived, or a part of the stream: an empty one is its end."""
        if now >= self.deadline_s:
            return self.on_time(now)
        if not self.over_tcp:
            return self._on_message(octets, now)
        for message in self._framing.feed(octets):
            order = self._on_message(message, now)
            if order is not None:
                return order
        return None if octets else self._next_turn(now)

    def on_time(self, now: float) -> Ask | Done:
        """`deadline_s` has come."""
        if not self._sends_left:
            return self._next_turn(now)
        return self._send(now, is_again=True)

    def on_error(self, now: float) -> Ask | Done:
        """The socket could not be opened or connected, or has failed."""
        return self._next_turn(now)

    def _on_message(self, message: bytes, now: float) -> Order:
        if not is_answer(message, self._sent):
            return None
        _, flags, *_ = HEADER.unpack_from(message)
        if flags & TC and not self.over_tcp and self._protocol is None:
            return self._send_over_tcp(now)
        self.answer = self._query[:2] + message[2:]
        return self._next_turn(now) if flags & 0xF in _CANNOT_TELL else Done(self.answer)

    def _next_turn(self, now: float) -> Ask | Done:
        server = next(self._servers, None)
        if server is None:
            return Done(self.answer)
        self._server = server
        if self._idents is not None:
            self._sent = self._idents().to_bytes(2) + self._query[2:]
        if self._protocol:
            return self._send_over_tcp(now)
        self.over_tcp = False
        self._sends_left = self._sends
        return self._send(now)

    def _send(self, now: float, *, is_again: bool = False) -> Ask:
        self._sends_left -= 1
        self.deadline_s = now + self._timeout_s
        return Ask(self._server, False, self._sent, is_again)

    def _send_over_tcp(self, now: float) -> Ask:
        self.over_tcp = True
        self._framing = Framing()
        self._sends_left = 0
        self.deadline_s = now + self._timeout_s * self._sends
        return Ask(self._server, True, frame(self._sent))
