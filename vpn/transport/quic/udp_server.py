"""The server's side of QUIC: one UDP socket, many connections.

Theory of operation
-------------------
A datagram belongs to the connection whose id it carries (RFC 9000, section 5.2). One that starts
a connection is answered with a Retry first (RFC 9000, section 8.1.2): no state is kept, and no
signature made, for a sender that has not shown that it receives at its address. The number of
connections without a stream is bounded; what comes beyond it is dropped and the client tries
again by itself.

Connections of other QUIC versions are told which one we speak (RFC 9000, section 6).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it has no __all__
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from vpn.transport.base import Address, Listening, StreamFactory
from vpn.transport.bind import address_of, bound_socket, plain_name
from vpn.transport.quic.aioquic_engine import QuicEngine
from vpn.transport.quic.config import MAX_HALF_OPEN, Liveness, server_configuration
from vpn.transport.quic.stream import QuicStream
from vpn.transport.quic.udp_connection import ABORTED, QuicLink
from vpn.transport.quic.udp_port import UdpPort

LONG_HEADER = 0x80  # RFC 9000, section 17.2
MIN_INITIAL_BYTES = 1200  # RFC 9000, section 14.1


class QuicListener:
    """A bound UDP socket and the connections it has accepted."""

    def __init__(self, listening: Listening, factory: StreamFactory, liveness: Liveness) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory = factory
        self._liveness = liveness
        self._configuration = server_configuration(listening.identity, liveness)
        self._connection_id_bytes = self._configuration.connection_id_length
        self._retry = QuicRetryTokenHandler()
        self._links: dict[bytes, QuicLink] = {}
        self._half_open: set[QuicLink] = set()
        self._fed: set[QuicLink] = set()

    async def open(self, address: Address) -> None:
        """Bind. Raises TransportError."""
        bound = await bound_socket(address, socket.SOCK_DGRAM)
        self._address = address_of(bound)
        self._port = UdpPort(bound, self)

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._address

    async def close(self) -> None:
        """Stop accepting and abort the streams that are still open."""
        for link in set(self._links.values()):
            if link.stream is not None:
                link.stream.abort()
            link.close(ABORTED)
            link.stop()
        self._links.clear()
        self._port.close()
        await asyncio.sleep(0)

    # DatagramReceiver.

    def on_datagram(self, data: bytes, peer: Any) -> None:
        """Give a datagram to its connection, or start one."""
        if not data:
            return
        if data[0] & LONG_HEADER:
            link = self._link_of_long(data, peer)
        else:
            link = self._links.get(data[1 : 1 + self._connection_id_bytes])
        if link is not None:
            link.receive(data, peer)
            self._fed.add(link)

    def on_batch_end(self) -> None:
        """Let every connection that was fed answer."""
        fed, self._fed = self._fed, set()
        for link in fed:
            link.advance()

    def on_socket_error(self, error: OSError) -> None:
        """Ignore it: it concerns one peer, and loss recovery or silence will tell."""

    # LinkOwner.

    def on_handshake(self, link: QuicLink) -> None:
        """Wait for the client to open the stream."""

    def on_stream(self, link: QuicLink) -> None:
        """Drive a new protocol."""
        self._half_open.discard(link)
        extra = {
            "peername": plain_name(link.engine.get_peer_address() or ("", 0)),
            "sockname": (self._address.host, self._address.port),
        }
        QuicStream(self._loop, self._factory(), extra, link).on_open()

    def on_link_end(self, link: QuicLink, error: Exception | None) -> None:
        """Keep the link for its closing period."""
        self._half_open.discard(link)

    def on_link_gone(self, link: QuicLink) -> None:
        """Forget the link."""
        link.stop()
        gone = [name for name, each in self._links.items() if each is link]
        for connection_id in gone:
            del self._links[connection_id]

    def on_connection_id(self, link: QuicLink, connection_id: bytes, *, is_valid: bool) -> None:
        """Route by one name more or less."""
        if is_valid:
            self._links[connection_id] = link
        else:
            self._links.pop(connection_id, None)

    # Inside.

    def _link_of_long(self, data: bytes, peer: Any) -> QuicLink | None:
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=self._connection_id_bytes)
        except ValueError:
            return None
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return None  # answering would let two servers be set on each other
        if header.version not in self._configuration.supported_versions:
            self._offer_version(header, peer)
            return None
        link = self._links.get(header.destination_cid)
        if (
            link is None
            and header.packet_type == QuicPacketType.INITIAL
            and len(data) >= MIN_INITIAL_BYTES
        ):
            link = self._accept(header, peer)
        return link

    def _offer_version(self, header: QuicHeader, peer: Any) -> None:
        offer = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=self._configuration.supported_versions,
        )
        self._port.send([(offer, peer)])

    def _accept(self, header: QuicHeader, peer: Any) -> QuicLink | None:
        if not header.token:
            self._ask_again(header, peer)
            return None
        if len(self._half_open) >= MAX_HALF_OPEN:
            return None
        try:
            original_id = self._retry.validate_token(
                address=peer,
                destination_cid=header.destination_cid,
                token=header.token,
                now=time.monotonic(),
            )
        except ValueError:
            return None
        engine = QuicEngine(
            configuration=self._configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=header.destination_cid,
        )
        link = QuicLink(engine, self, self._port.send, self._liveness)
        self._half_open.add(link)
        self._links[header.destination_cid] = self._links[engine.host_cid] = link
        return link

    def _ask_again(self, header: QuicHeader, peer: Any) -> None:
        source_id = os.urandom(self._connection_id_bytes)
        token = self._retry.create_token(
            address=peer,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=time.monotonic(),
        )
        retry = encode_quic_retry(
            version=header.version or 0,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self._port.send([(retry, peer)])
