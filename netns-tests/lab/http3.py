"""A web server and a client that speak HTTP/3 (RFC 9114), both of aioquic.

http3.py serve CERTIFICATE KEY ADDRESS...     answers on port 443 with "hello over HTTP/3"
http3.py get CA ADDRESS NAME                  prints what it has got from NAME
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import deque

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

PORT = 443
PAGE = b"hello over HTTP/3\n"


class _Server(QuicConnectionProtocol):
    _http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        self._http = self._http or H3Connection(self._quic)
        for one in self._http.handle_event(event):
            if isinstance(one, HeadersReceived) and one.stream_ended:
                self._http.send_headers(one.stream_id, [(b":status", b"200")])
                self._http.send_data(one.stream_id, PAGE, end_stream=True)
                self.transmit()


class _Client(QuicConnectionProtocol):
    _http: H3Connection | None = None

    def get(self, name: str) -> asyncio.Future[bytes]:
        """Ask for `/`; the answer is done when all of it is there, or the connection has gone."""
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._parts: deque[bytes] = deque()
        self._http = self._http or H3Connection(self._quic)
        stream = self._quic.get_next_available_stream_id()
        head = {b":method": b"GET", b":scheme": b"https", b":path": b"/"}
        headers = [*head.items(), (b":authority", name.encode())]
        self._http.send_headers(stream, headers, end_stream=True)
        self.transmit()
        return self._answer

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated) and not self._answer.done():
            self._answer.set_exception(ConnectionError(event.reason_phrase))
        for one in self._http.handle_event(event) if self._http else ():
            if isinstance(one, DataReceived):
                self._parts.append(one.data)
                if one.stream_ended:
                    self._answer.set_result(b"".join(self._parts))


async def _serve(certificate: str, key: str, *addresses: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    for address in addresses:
        await serve(address, PORT, configuration=configuration, create_protocol=_Server)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _get(ca: str, address: str, name: str) -> None:
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, server_name=name)
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(ca)
    making = connect(address, PORT, configuration=configuration, create_protocol=_Client)
    async with making as client:
        assert isinstance(client, _Client)
        print((await client.get(name)).decode(), end="", flush=True)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    asyncio.run(_serve(*words) if what == "serve" else _get(*words))
