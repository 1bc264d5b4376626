"""A UDP socket on the event loop that reads datagrams in batches.

The event loops' own datagram transports call back once per datagram and, on asyncio, read one
datagram per turn of the loop. Here one turn reads up to `BATCH` and then reports the end of the
batch, so that QUIC acknowledges a batch in one packet.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from vpn.transport.bind import ANY_IPV4, ANY_IPV6
from vpn.transport.quic.config import SOCKET_BUFFER_BYTES
from vpn.transport.quic.pktinfo import AnyAddressSocket

BATCH = 64
MAX_RECEIVE_BYTES = 9216  # a jumbo frame; ours are smaller, and a truncated one is not valid
MAX_BACKLOG = 1024  # datagrams that wait for a full socket; more are lost, as on any link

Datagram = tuple[bytes, Any]
Receive = Callable[[int], tuple[bytes, Any]]
Transmit = Callable[[bytes, Any], object]


class DatagramReceiver(Protocol):
    """The user of a UDP port."""

    def on_datagram(self, data: bytes, peer: Any) -> None:
        """A datagram arrived."""
        ...

    def on_batch_end(self) -> None:
        """No more datagrams for now: this is the time to answer."""
        ...

    def on_socket_error(self, error: OSError) -> None:
        """The socket reported an error, of ICMP or of the local network (udp(7))."""
        ...


def _functions_of(udp: socket.socket) -> tuple[Receive, Transmit]:
    """Return how to receive and send on a socket: connected, bound to one address, or to any."""
    try:
        connected_to = udp.getpeername()
    except OSError:
        if udp.getsockname()[0] in (ANY_IPV4, ANY_IPV6):
            any_address = AnyAddressSocket(udp)
            return any_address.receive, any_address.send
        return udp.recvfrom, udp.sendto
    return (lambda count: (udp.recv(count), connected_to)), (lambda data, _: udp.send(data))


class UdpPort:
    """A non-blocking UDP socket, connected to one peer or bound for many."""

    def __init__(self, udp: socket.socket, receiver: DatagramReceiver) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = udp
        self._receiver = receiver
        self._backlog: deque[Datagram] = deque()
        self._is_closed = False
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self._receive, self._transmit = _functions_of(udp)
        self._loop.add_reader(udp, self._on_readable)

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Send datagrams, or queue them while the socket is full; once closed, drop them."""
        for datagram in datagrams:
            if self._backlog or not self._is_sent(datagram):
                self._keep(datagram)

    def close(self) -> None:
        """Close the socket; harmless when closed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._backlog.clear()
        self._socket.close()

    def _is_sent(self, datagram: Datagram) -> bool:
        if self._is_closed:
            return True
        data, peer = datagram
        try:
            self._transmit(data, peer)
        except BlockingIOError:
            return False
        except OSError as error:
            self._receiver.on_socket_error(error)
        return True

    def _keep(self, datagram: Datagram) -> None:
        if not self._backlog:
            self._loop.add_writer(self._socket, self._on_writable)
        if len(self._backlog) < MAX_BACKLOG:
            self._backlog.append(datagram)

    def _on_writable(self) -> None:
        while self._backlog:
            datagram = self._backlog.popleft()
            if not self._is_sent(datagram):
                self._backlog.appendleft(datagram)
                return
        if not self._is_closed:
            self._loop.remove_writer(self._socket)

    def _on_readable(self) -> None:
        on_datagram = self._receiver.on_datagram
        for _ in range(BATCH):
            try:
                data, peer = self._receive(MAX_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._receiver.on_socket_error(error)
                break
            on_datagram(data, peer)
        self._receiver.on_batch_end()
