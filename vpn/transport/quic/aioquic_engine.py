"""aioquic behind the seam of `engine`: the one file that knows aioquic, its private parts included.

Theory of operation
-------------------
aioquic does no I/O. `AioquicConnection` is its connection as `udp_connection` drives it,
`AioquicAcceptor` its packets outside of connections as `udp_server` answers them, and
`AioquicEngine` joins these to sockets.

*Credit.* aioquic raises its receive limits by doubling them once half of what was granted has
*arrived*, whether or not anyone read it, so a paused reader never stops the sender. Here credit is
what was consumed plus a fixed window (RFC 9000, section 4.2), which needs the two methods
replaced that write the limits. There is no public way either to open the stream without a byte, to
count what waits in its send buffer, or to read the peer's certificate.

*Datagrams* (RFC 9221). aioquic queues any number and writes all of them before the stream's next
byte, so a flood of them would starve SSH. Here the queue is bounded, and while both wait they
get the same number of bytes; neither saves up for later. Where only the congestion window delays a
datagram, the stream waits too: it can use any rest of the window and would take it every time.

*Identity.* The certificate is checked by its key, not by a chain: see `vpn.transport.certificate`.
No session ticket is issued or kept, so there is no 0-RTT, which could be replayed.

Invariant: data held for a paused reader <= WINDOW_BYTES. aioquic itself closes the connection of
a peer that sends beyond its credit (FLOW_CONTROL_ERROR) or opens a second stream
(STREAM_LIMIT_ERROR).

`tests/vpn/transport/quic/test_aioquic_engine.py` fails if aioquic's internals change under this
file.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it has no __all__
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.quic.stream import QuicStream as StreamState
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vpn.errors import AuthenticationError
from vpn.transport.base import Listener, Listening, SocketAddress
from vpn.transport.bind import bound_socket
from vpn.transport.certificate import ed25519_key_of, self_signed
from vpn.transport.quic.config import (
    ALPN,
    CONGESTION_CONTROL,
    CREDIT_STEP_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_FRAME_BYTES,
    MAX_WAITING_DATAGRAMS,
    WINDOW_BYTES,
    Liveness,
)
from vpn.transport.quic.engine import Call, Connection, Origin, Termination
from vpn.transport.quic.pacer import Pacer
from vpn.transport.quic.state_machine import Events
from vpn.transport.quic.udp_client import UdpClient
from vpn.transport.quic.udp_server import CONNECTION_ID_BYTES, LongHeader, UdpServer

STREAM_ID = 0  # the client's first bidirectional stream (RFC 9000, section 2.1)
VERSIONS = [int(QuicProtocolVersion.VERSION_1)]
PING_ID = 0  # aioquic reports it with the acknowledgement; any will do
IDLE_TIMEOUT = "Idle timeout"  # aioquic's own words

SHORT_HEADER_BYTES = 3  # RFC 9000, section 17.3.1, with a packet number of 2; and a connection id
AEAD_TAG_BYTES = 16  # RFC 9001, section 5.3
FRAME_HEADER_BYTES = 3  # type and length (RFC 9221, section 4)

# aioquic logs what a hostile peer can cause; without a handler it would reach stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())


class AioquicConnection(QuicConnection):
    """aioquic's connection with one stream and credit for what was read."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._consumed_bytes = 0
        self._stream: StreamState | None = None
        # The peer may open the one stream if it is the client, and nothing else.
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = (
            0 if self._is_client else 1
        )
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0
        self._loss._pacer = Pacer(MAX_DATAGRAM_BYTES)  # type: ignore[assignment]
        self._on_packets_lost = self._loss._on_packets_lost
        self._loss._on_packets_lost = self._count_lost  # type: ignore[method-assign]
        self._datagrams_pending = deque(maxlen=MAX_WAITING_DATAGRAMS)
        self._lead_of_datagrams_bytes = 0
        self._is_window_kept = False
        self.dropped_datagrams = 0
        self.lost_packets = 0

    @property
    def termination(self) -> Termination | None:
        """How the connection ended, as soon as that is known.

        aioquic's event comes only after the closing period, three probe timeouts later.
        """
        return None if self._close_event is None else termination_of(self._close_event)

    @property
    def peer_key(self) -> bytes | None:
        """The key that signed the peer's handshake; None at the server.

        aioquic checks the signature whatever `verify_mode` says; that only governs the chain.
        Raises AuthenticationError.
        """
        if not self._is_client:
            return None
        certificate = self.tls._peer_certificate
        if certificate is None:
            raise AuthenticationError("the server has shown no certificate")
        return ed25519_key_of(certificate)

    @property
    def peer_address(self) -> SocketAddress:
        """Where packets are sent to; changes when the peer migrates."""
        return self.get_peer_address() or ("", 0)

    @property
    def rtt_s(self) -> float:
        """The smoothed round-trip time, 0 before the first sample."""
        return self._loss._rtt_smoothed

    def report(self, sink: Events) -> None:
        """Report what happened; what arrived of the stream in one go is one piece."""
        chunks: list[bytes] = []
        while (event := self.next_event()) is not None:
            if type(event) is events.StreamDataReceived and event.stream_id == STREAM_ID:
                chunks.append(event.data)
                if not event.end_stream:
                    continue
            self._report_data(chunks, sink)
            self._report_one(event, sink)
        self._report_data(chunks, sink)

    @staticmethod
    def _report_data(chunks: list[bytes], sink: Events) -> None:
        if chunks:
            sink.on_data(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            chunks.clear()

    def _report_one(self, event: events.QuicEvent, sink: Events) -> None:
        match event:
            case events.StreamDataReceived(stream_id=stream_id):
                if stream_id == STREAM_ID:
                    sink.on_fin()
                else:
                    self.close(QuicErrorCode.STREAM_LIMIT_ERROR)
            case events.DatagramFrameReceived(data=data):
                sink.on_datagram(data)
            case events.PingAcknowledged():
                sink.on_ping_acknowledged()
            case events.HandshakeCompleted():
                sink.on_handshake()
            case events.StreamReset() | events.StopSendingReceived():
                sink.on_reset()
            case events.ConnectionIdIssued(connection_id=connection_id):
                sink.on_connection_id(connection_id, is_valid=True)
            case events.ConnectionIdRetired(connection_id=connection_id):
                sink.on_connection_id(connection_id, is_valid=False)
            case events.ConnectionTerminated():
                sink.on_closing_over()

    def find_stream(self) -> bool:
        """Return whether the peer has opened the stream, and use it from then on."""
        self._stream = self._streams.get(STREAM_ID)
        return self._stream is not None

    def open_stream(self) -> None:
        """Open the stream, unless the peer has, and tell the server at once.

        A MAX_STREAM_DATA frame opens a stream without a byte (RFC 9000, section 3.2), so that
        the server may speak first.
        """
        if self._stream is None:
            self._stream = self._get_or_create_stream_for_send(STREAM_ID)
            self._stream.max_stream_data_local_sent = 0

    def write(self, data: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        """Queue bytes of the stream, and its end."""
        # aioquic appends to a buffer of its own, so any buffer will do.
        self.send_stream_data(STREAM_ID, data, is_end)  # type: ignore[arg-type]

    def ping(self) -> None:
        """Queue a PING frame."""
        self.send_ping(PING_ID)

    def terminate(self, code: int, reason: str) -> None:
        """Queue a CONNECTION_CLOSE of type 0x1d."""
        self.close(error_code=code, reason_phrase=reason)

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

    def _count_lost(
        self, *, packets: Iterable[QuicSentPacket], congestion_event: bool = True, **arguments: Any
    ) -> None:
        """Count packets that are lost, not those that are sent again as a probe."""
        lost = tuple(packets)
        if congestion_event:
            self.lost_packets += len(lost)
        self._on_packets_lost(packets=lost, congestion_event=congestion_event, **arguments)


def termination_of(event: events.ConnectionTerminated) -> Termination:
    """Return how a connection ended, in the words of the seam."""
    if event.reason_phrase == IDLE_TIMEOUT:
        return Termination(Origin.SILENCE, reason="no answer from the peer")
    origin = Origin.APPLICATION if event.frame_type is None else Origin.TRANSPORT
    return Termination(origin, event.error_code, event.reason_phrase)


class AioquicAcceptor:
    """The packets of a server that belong to no connection yet; see `udp_server.Acceptor`."""

    def __init__(self, configuration: QuicConfiguration) -> None:
        self._configuration = configuration
        self._tokens = QuicRetryTokenHandler()

    def parse(self, data: bytes) -> LongHeader | None:
        """Return the header of a packet that may be answered; None for any other.

        Version negotiation is not answered: two servers could be set on each other.
        """
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return None
        return LongHeader(
            header.packet_type == QuicPacketType.INITIAL,
            header.version in VERSIONS,
            header.destination_cid,
            header.source_cid,
            header.token,
        )

    def version_negotiation(self, header: LongHeader) -> bytes:
        """Return the packet that tells the versions spoken here."""
        return encode_quic_version_negotiation(
            source_cid=header.destination_id,
            destination_cid=header.source_id,
            supported_versions=VERSIONS,
        )

    def retry(self, header: LongHeader, peer: SocketAddress, source_id: bytes, now: float) -> bytes:
        """Return a Retry packet with a token for `peer`."""
        token = self._tokens.create_token(
            address=peer,
            original_destination_connection_id=header.destination_id,
            retry_source_connection_id=source_id,
            now=now,
        )
        return encode_quic_retry(
            version=VERSIONS[0],
            source_cid=source_id,
            destination_cid=header.source_id,
            original_destination_cid=header.destination_id,
            retry_token=token,
        )

    def accept(
        self, header: LongHeader, peer: SocketAddress, now: float
    ) -> tuple[AioquicConnection, bytes] | None:
        """Return a new connection and its ID, or None if the token is not valid."""
        try:
            original_id = self._tokens.validate_token(
                address=peer, destination_cid=header.destination_id, token=header.token, now=now
            )
        except ValueError:
            return None
        connection = AioquicConnection(
            configuration=self._configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=header.destination_id,
        )
        return connection, connection.host_cid


class AioquicEngine:
    """QUIC by aioquic, on the event loop; see `engine.Engine`."""

    name = "aioquic"

    def __init__(self, liveness: Liveness | None = None) -> None:
        self._liveness = liveness or Liveness()

    async def connect(self, call: Call) -> Connection:
        """Return a client's connection after its handshake. See `engine.Engine`."""
        udp = await call.sockets.outer_socket(call.family, socket.SOCK_DGRAM)
        try:
            udp.connect(call.name)  # only sets the peer, so that ICMP errors come back (udp(7))
            configuration = client_configuration(self._liveness, datagrams=call.has_datagrams)
            machine = AioquicConnection(configuration=configuration)
            machine.connect(udp.getpeername(), now=time.monotonic())
            client = UdpClient(udp, machine, self._liveness)
        except BaseException:
            udp.close()
            raise
        await client.handshake()
        return client.connection

    async def listen(self, listening: Listening, accept: Callable[[Connection], None]) -> Listener:
        """Accept connections at `listening.address`. Raises TransportError."""
        configuration = server_configuration(listening.identity, self._liveness)
        bound = await bound_socket(listening.address, socket.SOCK_DGRAM)
        return UdpServer(bound, AioquicAcceptor(configuration), accept, self._liveness)


def client_configuration(liveness: Liveness, *, datagrams: bool = True) -> QuicConfiguration:
    """Return the client's side. Whoever connects checks the key of the certificate."""
    configuration = _configuration(liveness, is_client=True)
    if not datagrams:
        configuration.max_datagram_frame_size = None
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


def server_configuration(identity: bytes, liveness: Liveness) -> QuicConfiguration:
    """Return the server's side for a raw Ed25519 seed."""
    configuration = _configuration(liveness, is_client=False)
    configuration.private_key = Ed25519PrivateKey.from_private_bytes(identity)
    configuration.certificate = self_signed(configuration.private_key)
    return configuration


def _configuration(liveness: Liveness, *, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        congestion_control_algorithm=CONGESTION_CONTROL,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=liveness.idle_timeout_s,
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
        max_datagram_frame_size=MAX_FRAME_BYTES,
        max_datagram_size=MAX_DATAGRAM_BYTES,
        supported_versions=VERSIONS,
    )
