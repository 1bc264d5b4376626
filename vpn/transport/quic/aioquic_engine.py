"""aioquic's connection with credit given for what was read: the one file on its private parts.

Theory of operation
-------------------
aioquic raises its receive limits by doubling them once half of what was granted has *arrived*,
whether or not anyone read it, so a paused reader never stops the sender. Here credit is what the
protocol has consumed plus a fixed window (RFC 9000, section 4.2), which needs the two methods
replaced that write the limits. The same file opens the one stream, counts what waits in its send
buffer and reads the peer's certificate, because aioquic has no public way to do so.

DATAGRAM frames (RFC 9221): aioquic queues any number and writes all of them before the stream's
next byte, so a flood of them would starve SSH. Here the queue is bounded, and while both wait they
get the same number of bytes; neither saves up for later. Where only the congestion window delays a
datagram, the stream waits too: it can use any rest of the window and would take it every time.

Invariant: data held for a paused reader <= WINDOW_BYTES. aioquic itself closes the connection of
a peer that sends beyond its credit (FLOW_CONTROL_ERROR) or opens a second stream
(STREAM_LIMIT_ERROR).

`tests/vpn/transport/quic/test_aioquic_engine.py` fails if aioquic's internals change under this
file.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream as StreamState
from cryptography import x509

from vpn.transport.quic.config import (
    CREDIT_STEP_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_WAITING_DATAGRAMS,
    WINDOW_BYTES,
)
from vpn.transport.quic.pacer import Pacer

STREAM_ID = 0  # the client's first bidirectional stream (RFC 9000, section 2.1)

SHORT_HEADER_BYTES = 3  # RFC 9000, section 17.3.1, with a packet number of 2; and a connection id
AEAD_TAG_BYTES = 16  # RFC 9001, section 5.3
FRAME_HEADER_BYTES = 3  # type and length (RFC 9221, section 4)


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
        self._datagrams_pending = deque(maxlen=MAX_WAITING_DATAGRAMS)
        self._lead_of_datagrams_bytes = 0
        self._is_window_kept = False
        self.dropped_datagrams = 0

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

    @property
    def max_datagram_bytes(self) -> int:
        """The largest datagram that fits a packet; 0 if one of the two ends takes none."""
        limit = self._remote_max_datagram_frame_size
        if limit is None or self._configuration.max_datagram_frame_size is None:
            return 0
        header = SHORT_HEADER_BYTES + len(self._peer_cid.cid)
        packet_bytes = MAX_DATAGRAM_BYTES - header - AEAD_TAG_BYTES
        return max(0, min(packet_bytes, limit) - FRAME_HEADER_BYTES)

    def queue_datagram(self, data: bytes) -> None:
        """Take a datagram of at most `max_datagram_bytes`; the oldest goes if there is no room."""
        if len(self._datagrams_pending) == MAX_WAITING_DATAGRAMS:
            self.dropped_datagrams += 1
        self.send_datagram_frame(data)

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

    def _write_datagram_frame(
        self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType
    ) -> bool:
        """Write a datagram, unless it is the stream's turn."""
        self._is_window_kept = False
        if self._lead_of_datagrams_bytes > 0 and self._has_stream_something_to_send:
            raise QuicPacketBuilderStop
        try:
            super()._write_datagram_frame(builder, data, frame_type)
        except QuicPacketBuilderStop:
            fits = FRAME_HEADER_BYTES + len(data) <= builder.remaining_buffer_space
            self._is_window_kept = fits  # so it is the congestion window that does not allow it
            raise
        self._account(len(data))
        return True

    def _write_stream_frame(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,
        stream: StreamState,
        max_offset: int,
    ) -> int:
        """Write bytes of the stream, unless the datagrams keep the window for themselves."""
        if self._is_window_kept and self._datagrams_pending:
            return 0
        room = builder.remaining_buffer_space
        used = super()._write_stream_frame(builder, space, stream, max_offset)
        self._account(builder.remaining_buffer_space - room)
        return used

    def _account(self, lead_bytes: int) -> None:
        lead = self._lead_of_datagrams_bytes + lead_bytes
        self._lead_of_datagrams_bytes = min(max(lead, -MAX_DATAGRAM_BYTES), MAX_DATAGRAM_BYTES)

    @property
    def _has_stream_something_to_send(self) -> bool:
        """Whether there are bytes that the peer's credit allows to be sent."""
        stream = self._stream
        if stream is None or stream.is_blocked or not len(stream.sender._pending):
            return False
        credit = self._remote_max_data - self._remote_max_data_used
        limit = min(stream.sender.highest_offset + credit, stream.max_stream_data_remote)
        return stream.sender._pending[0].start < limit
