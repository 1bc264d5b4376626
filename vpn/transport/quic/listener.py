"""The server's side of the QUIC transport: a stream for every connection its engine accepts."""

from __future__ import annotations

import asyncio
import weakref

from vpn.transport.base import Address, Listener, Listening, StreamFactory
from vpn.transport.quic.engine import Connection, Engine
from vpn.transport.quic.stream import QuicStream


class QuicListener:
    """An engine's listener and the streams it has accepted."""

    def __init__(self, factory: StreamFactory) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory = factory
        self._streams: weakref.WeakSet[QuicStream] = weakref.WeakSet()
        self._below: Listener

    async def open(self, engine: Engine, listening: Listening) -> None:
        """Bind. Raises TransportError."""
        self._below = await engine.listen(listening, self._accept)

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._below.address

    async def close(self) -> None:
        """Stop accepting and abort the streams that are still open."""
        for stream in list(self._streams):
            stream.abort()
        await self._below.close()

    def _accept(self, connection: Connection) -> None:
        stream = QuicStream(self._loop, self._factory(), {}, connection)
        self._streams.add(stream)
        stream.on_open()
