"""The stream of a QUIC connection, as asyncio knows streams, and the datagrams beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aioquic.quic.packet import QuicErrorCode

from vpn.transport.quic.udp_connection import ABORTED, QuicLink
from vpn.transport.stream import Stream


class QuicStream(Stream):
    """Stream 0 of a link: the connection lives as long as it does.

    close() ends our direction, waits until the peer's machine has acknowledged everything, and
    closes the connection without error. abort() closes it with an error, which resets the
    stream in both directions (RFC 9000, section 10.2).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        extra: Mapping[str, Any],
        link: QuicLink,
    ) -> None:
        self._datagrams = QuicDatagrams(self, link) if link.engine.max_datagram_bytes else None
        super().__init__(loop, protocol, {**extra, "datagrams": self._datagrams})
        self._link = link
        link.stream = self

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and never sent."""
        return self._link.engine.unsent_bytes

    def on_datagram(self, data: bytes) -> None:
        """Report a datagram; one that comes while the stream ends is lost."""
        if self._datagrams is not None and not self.is_closing():
            self.guarded(self._datagrams.on_datagram, data)

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._link.write(data)

    def _send_fin(self) -> None:
        self._link.write(b"", is_end=True)

    def _consumed(self, count: int) -> None:
        self._link.consume(count)

    def _flushed(self) -> bool:
        return self._link.engine.is_sending_finished

    def _shut(self) -> None:
        self._link.stream = None
        self._link.close(QuicErrorCode.NO_ERROR)

    def _reset(self) -> None:
        self._link.stream = None
        self._link.close(ABORTED)


class QuicDatagrams:
    """DATAGRAM frames of the stream's connection (RFC 9221); see `base.Datagrams`."""

    def __init__(self, stream: QuicStream, link: QuicLink) -> None:
        self._stream = stream
        self._link = link
        self.on_datagram: Callable[[bytes], object] = lambda _: None

    @property
    def max_bytes(self) -> int:
        """The largest datagram that can be sent now; 0 once the stream is closing."""
        return 0 if self._stream.is_closing() else self._link.engine.max_datagram_bytes

    @property
    def dropped(self) -> int:
        """How many were dropped because others waited in front of them."""
        return self._link.engine.dropped_datagrams

    def send(self, data: bytes) -> bool:
        """Send a datagram; return False if it is too large or the stream is closing."""
        if self._stream.is_closing() or len(data) > self.max_bytes:
            return False
        self._link.send_datagram(data)
        return True
