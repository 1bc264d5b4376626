"""A QUIC engine without QUIC: its packets are function calls on the next turn of the loop.

It proves that the seam of `vpn.transport.quic.engine` needs no library, and is the simplest thing
that keeps the seam's invariants.
"""

import asyncio
import errno
import itertools
from collections import deque
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vpn.errors import TransportError
from vpn.transport.base import Address, Listener, Listening
from vpn.transport.quic.config import MAX_WAITING_DATAGRAMS, WINDOW_BYTES, Liveness
from vpn.transport.quic.engine import (
    ABORTED,
    NO_ERROR,
    Call,
    Connection,
    ConnectionClosedError,
    Origin,
    Path,
    Receiver,
    Termination,
)

DATAGRAM_BYTES = 1000
RTT_S = 0.001
CLIENT_HOST = "127.0.0.1"


class FakeConnection:
    """One end. Calls `peer` as a network would; `is_cut` loses everything from then on."""

    peer: "FakeConnection"

    def __init__(self, path: Path, key: bytes | None, liveness: Liveness) -> None:
        self._loop = asyncio.get_running_loop()
        self._dead_after_s = liveness.dead_after_s
        self._receiver: Receiver | None = None
        self._termination: Termination | None = None
        self._on_attach: Callable[[], object] = lambda: None
        self._unsent: deque[bytes] = deque()
        self._credit_bytes = WINDOW_BYTES
        self._has_fin_waiting = False
        self._pumping_later: asyncio.Handle | None = None
        self._datagrams: deque[bytes] = deque()
        self._silence: asyncio.TimerHandle | None = None
        self.path = path
        self.peer_key = key
        self.unsent_bytes = 0
        self.is_sending_finished = False
        self.is_cut = False
        self.max_datagram_bytes = DATAGRAM_BYTES
        self.dropped_datagrams = 0

    # Orders.

    def attach(self, receiver: Receiver) -> None:
        if self._termination is not None:
            raise ConnectionClosedError(self._termination)
        self._receiver = receiver
        self._on_attach()

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool = False) -> None:
        self._unsent.append(bytes(data))
        self.unsent_bytes += len(data)
        self._has_fin_waiting = is_end
        self._pump_soon()

    def consume(self, count: int) -> None:
        self._to_peer(lambda peer: peer._on_credit(count))

    def send_datagram(self, data: bytes) -> None:
        if len(self._datagrams) == MAX_WAITING_DATAGRAMS:
            self._datagrams.popleft()
            self.dropped_datagrams += 1
        self._datagrams.append(data)
        self._pump_soon()

    def close(self, code: int = NO_ERROR, reason: str = "") -> None:
        self._receiver = None
        self._end(Termination(Origin.APPLICATION, code, reason))

    def cut(self) -> None:
        """Lose all packets from now on; silence is noticed in time."""
        self.is_cut = True
        self._silence = self._loop.call_later(self._dead_after_s, self._on_silence)

    def abort(self) -> None:
        """What a closing listener does."""
        self._end(Termination(Origin.APPLICATION, ABORTED))

    # The network.

    def _to_peer(self, packet: Callable[["FakeConnection"], object]) -> None:
        if not self.is_cut:
            self._loop.call_soon(self._deliver, packet)

    def _deliver(self, packet: Callable[["FakeConnection"], object]) -> None:
        if self.peer._termination is None:
            packet(self.peer)

    def _pump_soon(self) -> None:
        if self._pumping_later is None:
            self._pumping_later = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping_later = None
        while self._datagrams:
            data = self._datagrams.popleft()
            self._to_peer(lambda peer, data=data: peer._on_datagram(data))
        while self._unsent and self._credit_bytes:
            self._pump_one()
        if self._has_fin_waiting and not self._unsent:
            self._has_fin_waiting = False
            self._to_peer(lambda peer: peer._on_fin())
        if self._receiver is not None:
            self._receiver.on_progress()

    def _pump_one(self) -> None:
        data = self._unsent.popleft()
        sent, rest = data[: self._credit_bytes], data[self._credit_bytes :]
        if rest:
            self._unsent.appendleft(rest)
        self._credit_bytes -= len(sent)
        self.unsent_bytes -= len(sent)
        if sent:
            self._to_peer(lambda peer: peer._on_bytes(sent))

    def _on_bytes(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_bytes(data)

    def _on_fin(self) -> None:
        if self._receiver is not None:
            self._receiver.on_fin()
        self._to_peer(lambda peer: peer._on_fin_acknowledged())

    def _on_fin_acknowledged(self) -> None:
        self.is_sending_finished = True
        self._pump_soon()

    def _on_credit(self, count: int) -> None:
        self._credit_bytes += count
        self._pump_soon()

    def _on_datagram(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_datagram(data)

    def _on_silence(self) -> None:
        self._end(Termination(Origin.SILENCE, reason="no answer from the peer"))

    def _end(self, termination: Termination) -> None:
        if self._termination is not None:
            return
        self._termination = termination
        if self._silence is not None:
            self._silence.cancel()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_closed(termination)
        self._to_peer(lambda peer: peer._end(termination))


class FakeListener:
    """A port of the fake network."""

    def __init__(
        self,
        ports: dict[int, "FakeListener"],
        address: Address,
        identity: bytes,
        accept: Callable[[Connection], None],
    ) -> None:
        self._ports = ports
        self.address = address
        self.key = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        self.accept = accept
        self.accepted: list[FakeConnection] = []
        ports[address.port] = self

    async def close(self) -> None:
        self._ports.pop(self.address.port, None)
        for connection in self.accepted:
            connection.abort()
        await asyncio.sleep(0)


class FakeEngine:
    """See `vpn.transport.quic.engine.Engine`."""

    name = "fake"

    def __init__(self, liveness: Liveness | None = None) -> None:
        self._liveness = liveness or Liveness()
        self._ports: dict[int, FakeListener] = {}
        self._client_ports = itertools.count(50_000)

    async def connect(self, call: Call) -> Connection:
        host, port = call.name[:2]
        listener = self._ports.get(port)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        ends = (CLIENT_HOST, next(self._client_ports)), (host, port)
        client = FakeConnection(Path(*ends, RTT_S, 0), listener.key, self._liveness)
        server = FakeConnection(Path(*ends[::-1], RTT_S, 0), None, self._liveness)
        client.peer, server.peer = server, client
        listener.accepted.append(server)
        client._on_attach = lambda: client._to_peer(listener.accept)
        if not call.has_datagrams:
            client.max_datagram_bytes = server.max_datagram_bytes = 0
        await asyncio.sleep(0)
        return client

    async def listen(self, listening: Listening, accept: Callable[[Connection], None]) -> Listener:
        host, port = listening.address.host, listening.address.port
        port = port or next(free for free in itertools.count(40_000) if free not in self._ports)
        address = Address(host, port)
        if port in self._ports:
            raise TransportError(f"cannot listen on {address}: the address is already used")
        return FakeListener(self._ports, address, listening.identity, accept)

    def cut(self) -> None:
        """Lose every packet of every connection from now on."""
        for listener in self._ports.values():
            for server in listener.accepted:
                server.cut()
                server.peer.cut()
