"""The UDP associations of a tunnel: the gate's datagrams, carried to the UDP service and back.

Theory of operation
-------------------
An association begins with the first datagram that the gate has for it, as a channel to the service
of its family, and lasts until the gate says `Forget`, the session ends, or another gate follows.
Nothing of it is carried over: the next datagram begins it anew, from another port of the far end.

Each destination of an association is admitted once (`admission`). What is forbidden never leaves,
and is answered as a closed port is, so that applications try something else. So is everything if
the server has no UDP service, as any other sshd; that, and whether there is a session, is found out
by opening the channel. Without a session the network is unreachable. What cannot be sent now is
lost, as on any wire: only while the channel opens do datagrams wait, up to `MAX_WAITING_BYTES`.

A `MessageChannel` carries the messages of an association. Answers of the server are passed on to
the gate, which accepts those that the application may get.

Bounds: `MAX_ASSOCIATIONS`, as at the gate; `MAX_DESTINATIONS` each, of which the oldest is
forgotten, and admitted anew if it comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from shim.protocol.datagrams import MAX_ASSOCIATIONS, Deliver, Forget, Send, Undeliverable
from shim.protocol.link import Message
from vpn.client.flows.admission import Admission, Destination
from vpn.protocol import icmp, udp
from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.message_channel import MessageChannel
from vpn.protocol.services import UDP, UDP_IN_DATAGRAMS

MAX_DESTINATIONS: Final = 256
MAX_WAITING_BYTES: Final = 128 << 10
_OVERHEAD_BYTES: Final = 512

_AS_CLOSED_PORT: Final = (Failure.POLICY, Failure.UNSUPPORTED)
"""Failures that an application is told of as of a closed port, so that it goes on at once."""


class Egress(Protocol):
    """The part of `egress.Egress` that associations use."""

    def admit(self, destination: Destination) -> Admission:
        """Return what becomes of datagrams to a destination."""
        ...

    def on_result(self, destination: Destination, failure: Failure | None) -> None:
        """Report what became of a destination that the rules allow; None is that they leave."""
        ...

    def on_bytes(self, destination: Destination, up: int, down: int) -> None:
        """Report what has gone to a destination that the rules allow, and come from it."""
        ...

    @property
    def has_datagrams(self) -> bool:
        """Whether the session carries datagrams next to its stream."""
        ...

    async def open_service(self, service: tuple[str, int], protocol: asyncio.Protocol) -> None:
        """Connect a protocol to a service of our server. Raises OpenFailed."""
        ...


@dataclass(slots=True)
class _Peer:
    """A destination of an association, with the bytes sent to it and received from it."""

    admission: Admission
    bytes_up: int = 0
    bytes_down: int = 0
    has_result: bool = False
    """Whether its result is in the report."""


class Associations:
    """All associations between a gate and a session."""

    def __init__(self, egress: Egress, send: Callable[[Message], None]) -> None:
        """`send` takes a message for the gate, or loses it."""
        self._egress = egress
        self._send = send
        self._associations: dict[int, Association] = {}

    def __len__(self) -> int:
        return len(self._associations)

    @property
    def is_opening(self) -> bool:
        """Whether datagrams wait for a channel."""
        return any(not one.is_open for one in self._associations.values())

    def on_send(self, message: Send) -> None:
        """An application has sent a datagram."""
        association = self._associations.get(message.association)
        if association is None:
            if len(self._associations) >= MAX_ASSOCIATIONS:
                return
            association = Association(message.association, message.family, self)
            self._associations[message.association] = association
        association.send(message)

    def on_forget(self, message: Forget) -> None:
        """The application's socket is closed, or idle for too long."""
        association = self._associations.get(message.association)
        if association is not None:
            association.close()

    def close(self) -> None:
        """End all associations."""
        for association in list(self._associations.values()):
            association.close()

    @property
    def egress(self) -> Egress:
        """Where associations are admitted and opened."""
        return self._egress

    def tell(self, message: Message) -> None:
        """Send a message to the gate, or lose it."""
        self._send(message)

    def forget(self, number: int) -> None:
        """An association has ended."""
        self._associations.pop(number, None)


class Association:
    """The association of one local socket, with its channel."""

    def __init__(self, number: int, family: Literal[4, 6], all_of_them: Associations) -> None:
        self._number = number
        self._family: Literal[4, 6] = family
        self._all = all_of_them
        self._peers: dict[tuple[str, int], _Peer] = {}
        self._origins: dict[tuple[str, int], tuple[str, int]] = {}
        """The destinations of the application, by where their datagrams go if that is elsewhere."""
        self._waiting: list[tuple[_Peer, udp.Send]] = []
        self._waiting_bytes = 0
        self._channel: MessageChannel | None = None
        self._opening = asyncio.create_task(self._open())

    @property
    def is_open(self) -> bool:
        """Whether datagrams leave at once."""
        return self._channel is not None

    def send(self, message: Send) -> None:
        """Send a datagram, keep it until the channel is open, or tell the gate of its refusal."""
        peer = self._peer(message.host, message.port)
        admission = peer.admission
        if admission.is_forbidden:
            self._say(peer, admission.failure)
            return
        host, port = admission.host, admission.port
        sent = udp.Send(host, port, message.hop_limit, message.may_fragment, message.payload)
        if self._channel is not None:
            self._pass_on(self._channel, peer, sent)
            return
        size = len(sent.payload) + _OVERHEAD_BYTES
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            return
        self._waiting_bytes += size
        self._waiting.append((peer, sent))

    def on_message(self, message: bytes) -> None:
        """Pass a message of the server on. Raises ValueError if it is none."""
        answer = udp.decode_answer(message)
        where = (answer.host, answer.port)
        host, port = self._origins.get(where, where)
        if isinstance(answer, udp.Deliver):
            peer = self._peers.get((host, port))
            if peer is not None:
                peer.bytes_down += len(answer.payload)
            self._all.tell(Deliver(self._number, host, port, answer.payload))
            return
        router = host if answer.router == answer.host else answer.router
        self._all.tell(
            Undeliverable(self._number, host, port, answer.kind, answer.code, answer.mtu, router)
        )

    def close(self) -> None:
        """Close the association; harmless when closed."""
        self._opening.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end()
        self._all.forget(self._number)
        for peer in self._peers.values():
            self._report_bytes(peer)
        self._peers.clear()

    async def _open(self) -> None:
        in_datagrams = self._all.egress.has_datagrams
        service = (UDP_IN_DATAGRAMS if in_datagrams else UDP)[self._family]
        channel = MessageChannel(
            udp.MAX_MESSAGE, self.on_message, self._on_channel_end, in_datagrams=in_datagrams
        )
        failure: Failure | None = None
        try:
            await self._all.egress.open_service(service, channel)
        except OpenFailed as failed:
            failure = failed.failure
        if channel.has_ended:
            failure = Failure.UNAVAILABLE
        waiting, self._waiting = self._waiting, []
        if failure is None:
            self._channel = channel
        for peer, sent in waiting:
            if failure is None:
                self._pass_on(channel, peer, sent)
            else:
                self._say(peer, failure)
        if failure is not None:
            self.close()

    def _on_channel_end(self) -> None:
        """Close with the channel; the next datagram begins another association."""
        if self.is_open:
            self.close()

    def _pass_on(self, channel: MessageChannel, peer: _Peer, sent: udp.Send) -> None:
        if not channel.send(udp.encode(sent)):
            return
        peer.bytes_up += len(sent.payload)
        self._on_result(peer, None)

    def _peer(self, host: str, port: int) -> _Peer:
        """Return a destination of the association; a new one is admitted, or not."""
        peer = self._peers.get((host, port))
        if peer is not None:
            return peer
        if len(self._peers) >= MAX_DESTINATIONS:
            self._forget(next(iter(self._peers)))
        admission = self._all.egress.admit(Destination("udp", host, port))
        target = admission.host, admission.port
        if target != (host, port) and not admission.is_forbidden:
            self._origins[target] = (host, port)
        peer = self._peers[host, port] = _Peer(admission, has_result=not admission.decision.allowed)
        return peer

    def _forget(self, key: tuple[str, int]) -> None:
        peer = self._peers.pop(key)
        target = peer.admission.host, peer.admission.port
        if self._origins.get(target) == key:
            del self._origins[target]
        self._report_bytes(peer)

    def _say(self, peer: _Peer, failure: Failure | None) -> None:
        """Report a failure to the application, as the ICMP error of it."""
        self._on_result(peer, failure)
        if failure is None:
            return
        shown = Failure.ECONNREFUSED if failure in _AS_CLOSED_PORT else failure
        error = icmp.error_for(shown, self._family)
        if error is not None:
            host, port = peer.admission.destination.host, peer.admission.destination.port
            self._all.tell(Undeliverable(self._number, host, port, *error, 0, ""))

    def _on_result(self, peer: _Peer, failure: Failure | None) -> None:
        if not peer.has_result:
            peer.has_result = True
            self._all.egress.on_result(peer.admission.destination, failure)

    def _report_bytes(self, peer: _Peer) -> None:
        if peer.bytes_up or peer.bytes_down:
            destination = peer.admission.destination
            self._all.egress.on_bytes(destination, peer.bytes_up, peer.bytes_down)
