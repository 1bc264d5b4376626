"""aioquic's connection with credit given for what was read: the one file on its private parts.

Theory of operation
-------------------
aioquic raises its receive limits by doubling them once half of what was granted has *arrived*,
whether or not anyone read it, so a paused reader never stops the sender. Here credit is what the
protocol has consumed plus a fixed window (RFC 9000, section 4.2), which needs the two methods
replaced that write the limits. The same file opens the one stream, counts what waits in its send
buffer and reads the peer's certificate, because aioquic has no public way to do so.

Invariant: data held for a paused reader <= WINDOW_BYTES. aioquic itself closes the connection of
a peer that sends beyond its credit (FLOW_CONTROL_ERROR) or opens a second stream
(STREAM_LIMIT_ERROR).

`tests/vpn/transport/test_quic_engine.py` fails if aioquic's internals change under this file.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream as StreamState
from cryptography import x509

from vpn.transport.pacer import Pacer
from vpn.transport.quic_config import CREDIT_STEP_BYTES, MAX_DATAGRAM_BYTES, WINDOW_BYTES

STREAM_ID = 0  # the client's first bidirectional stream (RFC 9000, section 2.1)


class QuicEngine(QuicConnection):
    """A sans-IO QUIC connection with one stream and honest flow control."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._consumed_bytes = 0
        self._stream: StreamState | None = None
        # The peer may open the one stream if it is the client, and nothing else.
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = (
            0 if self._is_client else 1
        )
        self._loss._pacer = Pacer(MAX_DATAGRAM_BYTES)  # type: ignore[assignment]
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0

    @property
    def termination(self) -> ConnectionTerminated | None:
        """How the connection ended, as soon as that is known.

        aioquic's event comes only after the closing period, three probe timeouts later.
        """
        return self._close_event

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key signed the peer's handshake.

        Its signature is checked whatever `verify_mode` says; that only governs the chain.
        """
        return self.tls._peer_certificate

    def find_stream(self) -> bool:
        """Return whether the peer has opened the stream, and use it from then on."""
        self._stream = self._streams.get(STREAM_ID)
        return self._stream is not None

    def open_stream(self) -> None:
        """Open the stream, and tell the server at once.

        A MAX_STREAM_DATA frame opens a stream without a byte (RFC 9000, section 3.2), so that
        the server may speak first.
        """
        self._stream = self._get_or_create_stream_for_send(STREAM_ID)
        self._stream.max_stream_data_local_sent = 0

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written has never been sent."""
        if self._stream is None:
            return 0
        sender = self._stream.sender
        return sender._buffer_stop - sender.highest_offset

    @property
    def is_sending_finished(self) -> bool:
        """Whether the peer has acknowledged all bytes and the end of our direction."""
        return self._stream is not None and self._stream.sender.is_finished

    def consume(self, count: int) -> bool:
        """Give credit for bytes the protocol has read; return whether it is worth announcing."""
        self._consumed_bytes += count
        return (
            self._stream is not None
            and self._credit_bytes - self._stream.max_stream_data_local >= CREDIT_STEP_BYTES
        )

    @property
    def _credit_bytes(self) -> int:
        return self._consumed_bytes + WINDOW_BYTES

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Raise MAX_DATA by what was consumed; replaces aioquic's doubling."""
        limit = self._local_max_data
        if self._credit_bytes - limit.value >= CREDIT_STEP_BYTES:
            limit.value = self._credit_bytes
        if limit.sent != limit.value:  # also when the frame was lost: then `sent` is 0
            frame = builder.start_frame(
                QuicFrameType.MAX_DATA,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            frame.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: StreamState
    ) -> None:
        """Raise MAX_STREAM_DATA by what was consumed; replaces aioquic's doubling."""
        if stream.stream_id != STREAM_ID:
            return
        if self._credit_bytes - stream.max_stream_data_local >= CREDIT_STEP_BYTES:
            stream.max_stream_data_local = self._credit_bytes
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            frame = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            frame.push_uint_var(STREAM_ID)
            frame.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local
