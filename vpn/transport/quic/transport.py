"""Streams over QUIC v1 (RFC 9000): the transport of our own server.

One connection carries one stream. The server proves its identity in the handshake; the client
has it checked before the stream is opened. See `quic_link` for how a connection runs,
`quic_engine` for flow control and `quic_listener` for the server's side.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

from aioquic.quic.packet import QuicErrorCode

from vpn.errors import AuthenticationError, TransportError
from vpn.transport.base import Dialing, Listener, Listening, SocketAddress, StreamFactory
from vpn.transport.bind import plain_name
from vpn.transport.certificate import ed25519_key_of
from vpn.transport.dial import dial
from vpn.transport.quic.aioquic_engine import QuicEngine
from vpn.transport.quic.config import ALPN, Liveness, client_configuration
from vpn.transport.quic.stream import QuicStream
from vpn.transport.quic.udp_connection import QuicLink
from vpn.transport.quic.udp_port import UdpPort
from vpn.transport.quic.udp_server import QuicListener

# Alerts of TLS as QUIC carries them (RFC 9001, section 4.8).
DECRYPT_ERROR = QuicErrorCode.CRYPTO_ERROR + 51  # RFC 8446, section 6.2: a signature is wrong
NO_APPLICATION_PROTOCOL = QuicErrorCode.CRYPTO_ERROR + 120  # RFC 7301, section 3.2
REFUSED = 2  # our application error code: the client does not accept the server's key

# The engine logs what a hostile peer can cause; without a handler it would reach stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())


class QuicClient:
    """A client's connection, from its first datagram until its socket is closed."""

    def __init__(self, udp: socket.socket, dialing: Dialing, liveness: Liveness) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialing = dialing
        self._handshake: asyncio.Future[None] = self._loop.create_future()
        self._names = udp.getpeername(), udp.getsockname()
        self._port = UdpPort(udp, self)
        configuration = client_configuration(liveness, datagrams=dialing.datagrams is not False)
        self._engine = QuicEngine(configuration=configuration)
        self._link = QuicLink(self._engine, self, self._port.send, liveness)
        self._key = b""

    async def connect(self) -> None:
        """Shake hands and have the server's key checked.

        Raises OSError, TransportError, AuthenticationError, or what `check_peer` raises.
        """
        try:
            self._engine.connect(self._names[0], now=time.monotonic())
            self._link.transmit()
            await self._handshake
            certificate = self._engine.peer_certificate
            if certificate is None:
                raise AuthenticationError(f"the server at {self._dialing.address} has no key")
            self._key = ed25519_key_of(certificate)
            self._dialing.check_peer(self._key)
        except BaseException:
            self.close()
            raise

    def open_stream(self, protocol: asyncio.Protocol) -> QuicStream:
        """Open the stream and let the protocol begin. Raises TransportError."""
        if self._link.is_ended:
            raise self._failure(None)
        peer, local = self._names
        extra = {
            "peername": plain_name(peer),
            "sockname": plain_name(local),
            "peer_key": self._key,
        }
        self._engine.open_stream()
        stream = QuicStream(self._loop, protocol, extra, self._link)
        self._link.transmit()
        stream.on_open()
        return stream

    def close(self) -> None:
        """Give the connection up."""
        self._link.close(REFUSED)

    # DatagramReceiver.

    def on_datagram(self, data: bytes, peer: Any) -> None:
        """Feed the link."""
        self._link.receive(data, peer)

    def on_batch_end(self) -> None:
        """Let the link answer."""
        self._link.advance()

    def on_socket_error(self, error: OSError) -> None:
        """Fail a connect that cannot succeed. Later, an ICMP error may be forged or passing."""
        if not self._handshake.done():
            self._handshake.set_exception(error)

    # LinkOwner.

    def on_handshake(self, link: QuicLink) -> None:
        """Go on in `connect`."""
        if not self._handshake.done():
            self._handshake.set_result(None)

    def on_stream(self, link: QuicLink) -> None:
        """Never comes: a server may open no stream."""

    def on_link_end(self, link: QuicLink, error: Exception | None) -> None:
        """Close the socket at once; the kernel answers what still comes (ICMP)."""
        if not self._handshake.done():
            self._handshake.set_exception(self._failure(error))
        link.stop()
        self._port.close()

    def on_link_gone(self, link: QuicLink) -> None:
        """All is done already."""

    def on_connection_id(self, link: QuicLink, connection_id: bytes, *, is_valid: bool) -> None:
        """A client's socket has one connection: nothing to route."""

    def _failure(self, error: Exception | None) -> Exception:
        if isinstance(error, TimeoutError):
            return error
        server = f"the server at {self._dialing.address}"
        termination = self._engine.termination
        code = termination.error_code if termination else QuicErrorCode.NO_ERROR
        if code == DECRYPT_ERROR:
            return AuthenticationError(f"{server} does not hold the key of its certificate")
        if code == NO_APPLICATION_PROTOCOL:
            reason = f"it does not speak {ALPN}"
        else:
            reason = (termination.reason_phrase if termination else "") or f"error {code:#x}"
        return TransportError(
            f"{server} refused the connection: {reason}; "
            "is it a server of overlay-vpn of the same version?"
        )


class QuicTransport:
    """QUIC. `peer_key` of a client's stream is the server's identity, proven by the handshake."""

    name = "quic"

    def __init__(self, liveness: Liveness | None = None) -> None:
        self._liveness = liveness or Liveness()

    async def connect(self, dialing: Dialing, factory: StreamFactory) -> asyncio.Transport:
        """Return a stream to the first address that answers; see `base.Transport`."""

        async def attempt(family: socket.AddressFamily, name: SocketAddress) -> QuicClient:
            udp = await dialing.sockets.outer_socket(family, socket.SOCK_DGRAM)
            try:
                udp.connect(name)  # only sets the peer, so that ICMP errors come back (udp(7))
                client = QuicClient(udp, dialing, self._liveness)
            except BaseException:
                udp.close()
                raise
            await client.connect()
            return client

        client = await dial(dialing, socket.SOCK_DGRAM, attempt)
        return client.open_stream(factory())

    async def listen(self, listening: Listening, factory: StreamFactory) -> Listener:
        """Accept streams at `listening.address`; see `base.Transport`."""
        listener = QuicListener(listening, factory, self._liveness)
        await listener.open(listening.address)
        return listener
