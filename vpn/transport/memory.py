"""Streams between protocols of one process: for `run --embedded`, and for tests."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import override

from vpn.errors import TransportError
from vpn.transport.base import Address, Dialing, Listener, Listening, StreamFactory
from vpn.transport.stream import Stream

FIRST_EPHEMERAL_PORT = 49152  # RFC 6335, section 6


class MemoryStream(Stream):
    """One end of a pair. Bytes wait at the other end until its protocol has read them."""

    _peer: MemoryStream
    _unread_bytes = 0

    @override
    def get_write_buffer_size(self) -> int:
        return self._unread_bytes

    @override
    def _send(self, data: bytes | bytearray | memoryview) -> None:
        chunk = bytes(data)
        self._unread_bytes += len(chunk)
        self._loop.call_soon(self._peer.on_bytes, chunk)

    @override
    def _send_fin(self) -> None:
        self._loop.call_soon(self._peer.on_fin)

    @override
    def _consumed(self, count: int) -> None:
        self._peer._unread_bytes -= count
        self._peer.on_progress()

    @override
    def _flushed(self) -> bool:
        return True  # what was sent already waits at the other end

    @override
    def _shut(self) -> None:
        self._loop.call_soon(self._peer.on_end, None)

    @override
    def _reset(self) -> None:
        error = ConnectionResetError("the peer aborted the stream")
        self._loop.call_soon(self._peer.on_end, error)


def memory_pair(
    first: asyncio.Protocol,
    second: asyncio.Protocol,
    first_extra: Mapping[str, Any] | None = None,
    second_extra: Mapping[str, Any] | None = None,
) -> tuple[MemoryStream, MemoryStream]:
    """Connect two protocols and return their streams.

    Both `connection_made` are called on the next turn of the running event loop.
    """
    loop = asyncio.get_running_loop()
    one = MemoryStream(loop, first, first_extra or {})
    two = MemoryStream(loop, second, second_extra or {})
    one._peer, two._peer = two, one
    loop.call_soon(one.on_open)
    loop.call_soon(two.on_open)
    return one, two


class MemoryListener:
    """A listener of one process; its address is a name in a `MemoryTransport`."""

    def __init__(
        self,
        address: Address,
        public_key: bytes,
        factory: StreamFactory,
        listeners: dict[Address, MemoryListener],
    ) -> None:
        self._address = address
        self._listeners = listeners
        self._streams: weakref.WeakSet[MemoryStream] = weakref.WeakSet()
        self._client_ports = itertools.count(FIRST_EPHEMERAL_PORT)
        self.public_key = public_key
        self.factory = factory

    @property
    def address(self) -> Address:
        """The address given to `MemoryTransport.connect`."""
        return self._address

    def accept(self, client: asyncio.Protocol) -> MemoryStream:
        """Connect a client's protocol to a new one of the listener; return the client's stream."""
        # An IP literal, because `from=` of authorized_keys(5) is matched against it.
        client_name = ("127.0.0.1", next(self._client_ports))
        server_name = (self._address.host, self._address.port)
        stream, accepted = memory_pair(
            client,
            self.factory(),
            {"peername": server_name, "sockname": client_name, "peer_key": self.public_key},
            {"peername": client_name, "sockname": server_name},
        )
        self._streams.add(accepted)
        return stream

    async def close(self) -> None:
        """Stop accepting and abort the streams that are still open."""
        if self._listeners.get(self._address) is self:
            del self._listeners[self._address]
        for stream in list(self._streams):
            stream.abort()
        await asyncio.sleep(0)


class MemoryTransport:
    """A transport between protocols of one process and one event loop.

    Instances share the process's listeners, unless they are given a dictionary of their own.
    """

    name = "memory"
    _process: dict[Address, MemoryListener] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, listeners: dict[Address, MemoryListener] | None = None) -> None:
        self._listeners = self._process if listeners is None else listeners

    async def connect(self, dialing: Dialing, factory: StreamFactory) -> asyncio.Transport:
        """Return a stream to the listener at `dialing.address`; see `base.Transport`."""
        listener = self._listeners.get(dialing.address)
        if listener is None:
            raise TransportError(
                f"cannot reach {dialing.address}: connection refused; "
                "no listener of this process has that name"
            )
        dialing.check_peer(listener.public_key)
        stream = listener.accept(factory())
        await asyncio.sleep(0)  # both connection_made were queued before this
        return stream

    async def listen(self, listening: Listening, factory: StreamFactory) -> Listener:
        """Accept streams at `listening.address`; port 0 takes any free one."""
        address = listening.address
        if address.port == 0:
            candidates = (
                Address(address.host, port) for port in itertools.count(FIRST_EPHEMERAL_PORT)
            )
            address = next(each for each in candidates if each not in self._listeners)
        if address in self._listeners:
            raise TransportError(
                f"cannot listen on {address}: the address is already used; "
                "stop the other listener or choose another port"
            )
        key = Ed25519PrivateKey.from_private_bytes(listening.identity).public_key()
        listener = MemoryListener(address, key.public_bytes_raw(), factory, self._listeners)
        self._listeners[address] = listener
        return listener
