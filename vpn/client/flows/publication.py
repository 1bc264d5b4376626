"""Published ports: listeners of this machine whose connections go on inside the namespace."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Final, Protocol

from vpn.config.forwards import Publication
from vpn.errors import OverlayError
from vpn.transport.pump import Pump

_LOOPBACK: Final = "127.0.0.1"


class Inside(Protocol):
    """The namespace of a command."""

    async def inner_socket(self, family: int) -> socket.socket:
        """Return a TCP socket inside the namespace. `family` is 4 or 6. Raises OSError."""
        ...


async def publish(publications: tuple[Publication, ...], namespace: Inside) -> list[asyncio.Server]:
    """Listen on every published port. Raises OverlayError, and listens on none then."""
    servers: list[asyncio.Server] = []
    try:
        for each in publications:
            servers.append(await _listen(each, namespace))
    except OverlayError:
        for server in servers:
            server.close()
        raise
    return servers


async def _listen(publication: Publication, namespace: Inside) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    factory = partial(_accepted, namespace, publication.inner_port)
    try:
        return await loop.create_server(factory, publication.address, publication.port)
    except OSError as error:
        raise OverlayError(
            f"cannot publish {publication.address}:{publication.port}: {error.strerror}; "
            "choose another port"
        ) from error


def _accepted(namespace: Inside, inner_port: int) -> asyncio.Protocol:
    pump = Pump()
    task = asyncio.get_running_loop().create_task(_join(pump, namespace, inner_port))
    pump.on_done(lambda _: task.cancel())
    return pump.near


async def _join(pump: Pump, namespace: Inside, port: int) -> None:
    """Connect the other end of an accepted connection inside the namespace."""
    loop = asyncio.get_running_loop()
    try:
        sock = await namespace.inner_socket(4)
        try:
            await loop.sock_connect(sock, (_LOOPBACK, port))
            await loop.create_connection(lambda: pump.far, sock=sock)
        except BaseException:
            sock.close()
            raise
    except OSError:
        pump.abort()
