"""The stream of a QUIC connection, as asyncio knows streams."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aioquic.quic.packet import QuicErrorCode

from vpn.transport.quic_link import ABORTED, QuicLink
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
        super().__init__(loop, protocol, extra)
        self._link = link
        link.stream = self

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and never sent."""
        return self._link.engine.unsent_bytes

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
