"""The `direct-tcpip` channel of RFC 4254 as an asyncio.Transport.

Theory of operation
-------------------
asyncssh's own channel also serves shells, and falls short for a tunnel: an EOF behind data that the
reader has not taken yet is lost when CLOSE arrives (every download through sshd that ends while the
application is slow would look like a reset), closing while data waits drops the EOF, the window
never changes, and each write is copied into a bytearray. This channel implements the part of
section 5 that a TCP flow needs. It is registered in asyncssh's table of channels and uses only the
methods listed in `Connection`.

Messages and callbacks (the rules of every stream, see `vpn.transport.base`):

- `write_eof()` is EOF after all data, and EOF is `eof_received()` after all data;
- `close()` is data, EOF, CLOSE: the peer sees `connection_lost(None)`;
- `abort()` is CLOSE without EOF: the peer sees `connection_lost(ConnectionResetError)`;
- when the connection ends, all channels end with an error, never cleanly in mid-transfer.

A foreign server may send CLOSE without EOF at the end of the stream (common in servers written in
Go); only our own server means a reset by it. `is_close_reset` tells which of the two the peer is.

Invariants: nothing is sent after CLOSE; the number is free again only when CLOSE went both ways;
at most `HIGH_BYTES` plus one write wait for the peer's window; `ReceiveWindow` bounds what
waits for the reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.misc import ChannelOpenError, ProtocolError
from asyncssh.packet import SSHPacket, String, UInt32
from typing_extensions import override

from vpn.ssh.session.channel_datagrams import Multiplexer
from vpn.ssh.session.pressure import Pressure
from vpn.ssh.session.window import ReceiveWindow, WindowBudget
from vpn.transport.stream import Stream

MAX_PACKET_BYTES = 64 << 10
HIGH_BYTES = 256 << 10
LOW_BYTES = 64 << 10
PACKETS_PER_TURN = 64
ORIGINATOR = (
    "127.0.0.1",
    0,
)  # RFC 4254, section 7.2: informational, and not disclosed


class Connection(Protocol):
    """The part of an SSH connection that its channels use."""

    pressure: Pressure
    windows: WindowBudget

    def add_channel(self, chan: Any) -> int:
        """Return the number of a new channel. Raises ChannelOpenError."""

    def remove_channel(self, recv_chan: int) -> None:
        """Free a channel's number."""

    @property
    def datagrams(self) -> Multiplexer | None:
        """The datagrams of the connection's stream, if it has any."""

    def send_packet(self, pkttype: int, *args: Any, handler: Any = None) -> None:
        """Send one message."""

    def send_channel_open_confirmation(
        self, send_chan: int, recv_chan: int, recv_window: int, recv_pktsize: int
    ) -> None:
        """Send SSH_MSG_CHANNEL_OPEN_CONFIRMATION."""

    def send_channel_open_failure(self, send_chan: int, code: int, reason: str, lang: str) -> None:
        """Send SSH_MSG_CHANNEL_OPEN_FAILURE."""


class Channel(Stream):
    """One flow inside an SSH connection. Raises ChannelOpenError if the connection is closed."""

    high_water = HIGH_BYTES
    low_water = LOW_BYTES

    def __init__(
        self, connection: Connection, protocol: asyncio.Protocol, *, is_close_reset: bool = True
    ) -> None:
        super().__init__(asyncio.get_running_loop(), protocol, {})
        self._connection: Connection | None = connection
        self._pressure = connection.pressure
        self._number = connection.add_channel(self)
        self._window = ReceiveWindow(connection.windows)
        self._is_close_reset = is_close_reset
        self._waiter: asyncio.Future[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._peer_number = 0
        self._send_window = 0
        self._send_packet_bytes = 0
        self._backlog: deque[bytes | memoryview] = deque()
        self._backlog_bytes = 0
        self._is_open = False
        self._is_in_line = False
        self._has_sent_eof = False
        self._has_sent_close = False
        self._is_flushing_later = False
        self._has_received_eof = False

    # Opening.

    async def connect(self, host: str, port: int) -> None:
        """Ask the peer to connect to a destination. Raises ChannelOpenError with its answer."""
        self._waiter = self._loop.create_future()
        self._to_peer(
            MSG_CHANNEL_OPEN,
            String(b"direct-tcpip"),
            UInt32(self._number),
            UInt32(self._window.size),
            UInt32(MAX_PACKET_BYTES),
            String(host),
            UInt32(port),
            String(ORIGINATOR[0]),
            UInt32(ORIGINATOR[1]),
        )
        try:
            await self._waiter
        except asyncio.CancelledError:
            if self._is_open:
                self.abort()
            else:
                self._is_lost = self._is_closing = True  # the protocol has not been told to begin
            raise

    def process_open_confirmation(
        self, send_chan: int, send_window: int, send_pktsize: int, packet: SSHPacket
    ) -> None:
        """Open the channel, or close it if the opener was cancelled. Called by asyncssh."""
        packet.check_end()
        if self._is_open or self._waiter is None:
            raise ProtocolError("channel not being opened")
        self._meet(send_chan, send_window, send_pktsize)
        self._is_open = True
        if self._is_lost:
            self._send_close()
        else:
            self.on_open()
        if not self._waiter.done():
            self._waiter.set_result(None)

    def process_open_failure(self, code: int, reason: str, lang: str) -> None:
        """Raise the peer's refusal in `connect`. Called by asyncssh."""
        if self._is_open or self._waiter is None:
            raise ProtocolError("channel not being opened")
        self._release()
        if not self._waiter.done():
            self._waiter.set_exception(ChannelOpenError(code, reason, lang))

    def process_open(
        self,
        send_chan: int,
        send_window: int,
        send_pktsize: int,
        session: Awaitable[asyncio.Protocol],
    ) -> None:
        """Answer a peer's request once `session` has found its protocol. Called by asyncssh.

        `session` raises ChannelOpenError to refuse.
        """
        self._meet(send_chan, send_window, send_pktsize)
        self._answering = self._loop.create_task(self._answer(session))

    def _meet(self, number: int, window: int, packet_bytes: int) -> None:
        """Take the peer's limits; a packet carries at least one octet whatever it says."""
        self._peer_number = number
        self._send_window = window
        self._send_packet_bytes = max(1, packet_bytes)

    async def _answer(self, session: Awaitable[asyncio.Protocol]) -> None:
        refusal: ChannelOpenError | None = None
        try:
            self.set_protocol(await session)
        except ChannelOpenError as error:
            refusal = error
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "opening a channel failed", "exception": error, "transport": self}
            )
            refusal = ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "internal error")
        if self._connection is None:
            return
        if refusal is not None:
            self._connection.send_channel_open_failure(
                self._peer_number, refusal.code, refusal.reason, refusal.lang
            )
            self._release()
            return
        self._connection.send_channel_open_confirmation(
            self._peer_number, self._number, self._window.size, MAX_PACKET_BYTES
        )
        self._is_open = True
        self.on_open()

    def set_inbound_peer_names(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> None:
        """Keep none of the names. Called by asyncssh."""

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `"datagrams"` of an open channel, as a stream does (`vpn.transport.base`)."""
        if name != "datagrams" or self._connection is None or not self._is_open:
            return super().get_extra_info(name, default)
        datagrams = self._connection.datagrams
        return datagrams and datagrams.open(self, self._number, self._peer_number)

    # Packets of the peer.

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool:
        """Handle one channel message. Called by asyncssh; raises ProtocolError."""
        if not self._is_open:
            raise ProtocolError("channel not open")
        if pkttype == MSG_CHANNEL_DATA:
            data = packet.get_string()
            packet.check_end()
            if self._has_received_eof:
                raise ProtocolError("data after EOF")
            if not self._window.on_data(len(data)):
                raise ProtocolError("window exceeded")
            if data:
                self.on_bytes(data)
        elif pkttype == MSG_CHANNEL_WINDOW_ADJUST:
            self._send_window += packet.get_uint32()
            packet.check_end()
            self._flush()
        elif pkttype == MSG_CHANNEL_EOF:
            packet.check_end()
            if self._has_received_eof:
                raise ProtocolError("second EOF")
            self._has_received_eof = True
            self.on_fin()
        elif pkttype == MSG_CHANNEL_CLOSE:
            packet.check_end()
            self._on_close()
        elif pkttype == MSG_CHANNEL_REQUEST:
            packet.get_string()
            # sshd probes an idle client with keepalive@openssh.com on any channel.
            if packet.get_boolean() and not self._has_sent_close:
                self._to_peer(MSG_CHANNEL_FAILURE, UInt32(self._peer_number))
        else:
            raise ProtocolError("unexpected message on a direct-tcpip channel")
        return True

    def _on_close(self) -> None:
        self._drop_backlog()
        self._send_close()
        self._release()
        if self._has_received_eof:
            self.on_end(None)
        elif self._is_close_reset:
            self.on_end(ConnectionResetError("the peer aborted the channel"))
        else:
            self.on_fin()
            self.on_end(None)

    def process_connection_close(self, exc: Exception | None) -> None:
        """End with an error, because the connection has ended. Called by asyncssh."""
        self._drop_backlog()
        self._release()
        if self._answering is not None:
            self._answering.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(
                ChannelOpenError(OPEN_CONNECT_FAILED, "SSH connection closed")
            )
        if self._is_open:
            self.on_end(ConnectionResetError("the SSH connection ended"))

    def log_received_packet(self, *_: object) -> None:
        """Keep no trace of flows. Called by asyncssh."""

    def log_sent_packet(self, *_: object) -> None:
        """Keep no trace of flows. Called by asyncssh."""

    # Orders of Stream.

    @override
    def get_write_buffer_size(self) -> int:
        return self._backlog_bytes

    @override
    def _is_full(self) -> bool:
        return self._pressure.is_high or self._backlog_bytes > HIGH_BYTES

    @override
    def _pause_protocol(self) -> None:
        if self._pressure.is_high:
            self._stand_in_line()
        super()._pause_protocol()

    @override
    def _resume_protocol(self) -> None:
        if self._pressure.is_high and not self._is_in_line:
            self._stand_in_line()
        if not self._is_in_line:
            super()._resume_protocol()

    def on_relief(self) -> None:
        """Resume the protocol after the stream was full. Called by Pressure."""
        self._is_in_line = False
        self.on_progress()

    @override
    def pause_reading(self) -> None:
        self._window.on_wait()
        super().pause_reading()

    def _stand_in_line(self) -> None:
        self._is_in_line = True
        self._pressure.wait(self)

    @override
    def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._has_sent_close:
            return
        chunk = data if isinstance(data, bytes) else bytes(data)
        self._backlog.append(chunk)
        self._backlog_bytes += len(chunk)
        self._flush()

    def _flush(self) -> None:
        backlog = self._backlog
        for _ in range(PACKETS_PER_TURN):
            if not backlog or not self._send_window:
                break
            chunk = backlog[0]
            size = min(len(chunk), self._send_window, self._send_packet_bytes)
            if size == len(chunk):
                backlog.popleft()
            else:
                view = memoryview(chunk)
                chunk, backlog[0] = view[:size], view[size:]
            self._backlog_bytes -= size
            self._send_window -= size
            header = UInt32(self._peer_number) + UInt32(size)
            self._to_peer(MSG_CHANNEL_DATA, header, chunk)
        else:
            self._flush_later()
        if not backlog and self._has_sent_fin and not self._has_sent_eof:
            self._send_eof()
        self.on_progress()

    def _flush_later(self) -> None:
        """Continue in the next turn of the loop: a peer may limit packets to one octet."""
        if not self._is_flushing_later:
            self._is_flushing_later = True
            self._loop.call_soon(self._flush_rest)

    def _flush_rest(self) -> None:
        self._is_flushing_later = False
        self._flush()

    @override
    def _send_fin(self) -> None:
        if not self._backlog:
            self._send_eof()

    def _send_eof(self) -> None:
        if not self._has_sent_close:
            self._has_sent_eof = True
            self._to_peer(MSG_CHANNEL_EOF, UInt32(self._peer_number))

    def _send_close(self) -> None:
        if not self._has_sent_close:
            self._has_sent_close = True
            self._to_peer(MSG_CHANNEL_CLOSE, UInt32(self._peer_number))

    @override
    def _consumed(self, count: int) -> None:
        adjustment = self._window.on_consumed(count)
        if adjustment and not self._has_sent_close and not self._has_received_eof:
            self._to_peer(MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._peer_number), UInt32(adjustment))

    @override
    def _flushed(self) -> bool:
        return self._has_sent_eof or self._has_sent_close

    @override
    def _shut(self) -> None:
        self._send_close()

    @override
    def _reset(self) -> None:
        self._drop_backlog()
        if self._is_open:
            self._send_close()
        elif self._answering is not None:
            self._answering.cancel()

    def _drop_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0

    def _to_peer(self, pkttype: int, *args: Any) -> None:
        if self._connection is not None:
            self._connection.send_packet(pkttype, *args, handler=self)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.remove_channel(self._number)
            self._connection = None
            self._window.close()
