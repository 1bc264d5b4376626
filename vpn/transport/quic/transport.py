"""Streams over QUIC v1 (RFC 9000): the transport of our own server.

One connection carries one stream. The server proves its identity in the handshake; the client
has it checked before the stream is opened. The library that speaks QUIC stands behind `engine`.
"""

from __future__ import annotations

import asyncio
import socket

from vpn.errors import AuthenticationError, TransportError
from vpn.transport.base import (
    Address,
    Dialing,
    Listener,
    Listening,
    SocketAddress,
    StreamFactory,
)
from vpn.transport.dial import dial
from vpn.transport.quic.aioquic_engine import AioquicEngine
from vpn.transport.quic.config import ALPN
from vpn.transport.quic.engine import (
    REFUSED,
    Call,
    Connection,
    ConnectionClosedError,
    Engine,
    Origin,
    Termination,
)
from vpn.transport.quic.listener import QuicListener
from vpn.transport.quic.stream import QuicStream

# Alerts of TLS as QUIC carries them (RFC 9001, section 4.8).
CRYPTO_ERROR = 0x100
DECRYPT_ERROR = CRYPTO_ERROR + 51  # RFC 8446, section 6.2: a signature is wrong
NO_APPLICATION_PROTOCOL = CRYPTO_ERROR + 120  # RFC 7301, section 3.2


class QuicTransport:
    """QUIC. `peer_key` of a client's stream is the server's identity, proven by the handshake."""

    name = "quic"

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine or AioquicEngine()

    async def connect(self, dialing: Dialing, factory: StreamFactory) -> asyncio.Transport:
        """Return a stream to the first address that answers; see `base.Transport`."""

        async def attempt(family: socket.AddressFamily, name: SocketAddress) -> Connection:
            has_datagrams = dialing.datagrams is not False
            call = Call(family, name, dialing.sockets, has_datagrams=has_datagrams)
            connection = await self._engine.connect(call)
            check(connection, dialing)
            return connection

        try:
            connection = await dial(dialing, socket.SOCK_DGRAM, attempt)
            return open_stream(connection, factory())
        except ConnectionClosedError as error:
            raise refusal(dialing.address, error.termination) from error

    async def listen(self, listening: Listening, factory: StreamFactory) -> Listener:
        """Accept streams at `listening.address`; see `base.Transport`."""
        listener = QuicListener(factory)
        await listener.open(self._engine, listening)
        return listener


def check(connection: Connection, dialing: Dialing) -> None:
    """Have the server's key checked, or close the connection.

    Raises AuthenticationError, or what `check_peer` raises.
    """
    try:
        key = connection.peer_key
        if key is None:
            raise AuthenticationError(f"the server at {dialing.address} has proven no key")
        dialing.check_peer(key)
    except BaseException:
        connection.close(REFUSED)
        raise


def open_stream(connection: Connection, protocol: asyncio.Protocol) -> QuicStream:
    """Open a checked connection's stream and call `connection_made`.

    Raises ConnectionClosedError.
    """
    extra = {"peer_key": connection.peer_key}
    stream = QuicStream(asyncio.get_running_loop(), protocol, extra, connection)
    stream.on_open()
    return stream


def refusal(address: Address, termination: Termination) -> Exception:
    """Return the error of a connect that a server did not let come to its stream."""
    server = f"the server at {address}"
    if termination.origin is Origin.SILENCE:
        return TransportError(f"{server}: {termination.reason}")
    if termination.code == DECRYPT_ERROR:
        return AuthenticationError(f"{server} does not hold the key of its certificate")
    if termination.code == NO_APPLICATION_PROTOCOL:
        reason = f"it does not speak {ALPN}"
    else:
        reason = termination.reason or f"error {termination.code:#x}"
    return TransportError(
        f"{server} refused the connection: {reason}; "
        "is it a server of overlay-vpn of the same version?"
    )
