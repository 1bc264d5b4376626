"""The stream of a QUIC connection as an asyncio.Transport, and the datagrams beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import override

from vpn.transport.base import Datagrams
from vpn.transport.quic import engine
from vpn.transport.quic.engine import ABORTED, NO_ERROR, Connection, Origin, Termination
from vpn.transport.stream import Stream


class QuicStream(Stream, engine.Receiver):
    """The stream of a connection, which lives as long as it does.

    close() ends our direction, waits until the peer has acknowledged everything, and
    closes the connection without error. abort() closes it with an error, which resets the
    stream in both directions (RFC 9000, section 10.2). Raises ConnectionClosedError.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        extra: Mapping[str, Any],
        connection: Connection,
    ) -> None:
        self._datagrams = QuicDatagrams(self, connection) if connection.max_datagram_bytes else None
        path = connection.path
        names = {"peername": path.peer, "sockname": path.local, "datagrams": self._datagrams}
        super().__init__(loop, protocol, {**names, **extra})
        self._connection = connection
        connection.attach(self)

    @override
    def get_write_buffer_size(self) -> int:
        return self._connection.unsent_bytes

    @override
    def on_datagram(self, data: bytes) -> None:
        if self._datagrams is not None and not self.is_closing():
            self.guarded(self._datagrams.on_datagram, data)

    @override
    def on_closed(self, termination: Termination) -> None:
        self.on_end(error_of(termination))

    @override
    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.write(data)

    @override
    def _send_fin(self) -> None:
        self._connection.write(b"", is_end=True)

    @override
    def _consumed(self, count: int) -> None:
        self._connection.consume(count)

    @override
    def _flushed(self) -> bool:
        return self._connection.is_sending_finished

    @override
    def _shut(self) -> None:
        self._connection.close(NO_ERROR)

    @override
    def _reset(self) -> None:
        self._connection.close(ABORTED)


class QuicDatagrams(Datagrams):
    """DATAGRAM frames of the stream's connection (RFC 9221)."""

    def __init__(self, stream: QuicStream, connection: Connection) -> None:
        self._stream = stream
        self._connection = connection
        self.on_datagram: Callable[[bytes], object] = lambda _: None

    @property
    @override
    def max_bytes(self) -> int:
        return 0 if self._stream.is_closing() else self._connection.max_datagram_bytes

    @override
    def send(self, data: bytes) -> bool:
        if self._stream.is_closing() or len(data) > self.max_bytes:
            return False
        self._connection.send_datagram(data)
        return True


def error_of(termination: Termination) -> Exception | None:
    """Return what a protocol is told about an end: None if it was clean."""
    if termination.origin is Origin.SILENCE:
        return TimeoutError(termination.reason)
    if termination.code == NO_ERROR:
        return None
    if termination.origin is Origin.APPLICATION and termination.code == ABORTED:
        return ConnectionResetError("the peer aborted the stream")
    return ConnectionResetError(
        f"the QUIC connection broke: error {termination.code:#x} {termination.reason}"
    )
