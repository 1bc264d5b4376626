"""A published port leads to a port inside the namespace, or to nothing."""

from __future__ import annotations

import asyncio
import socket

import pytest

from vpn.client.flows.publication import publish
from vpn.config.forwards import Publication
from vpn.errors import OverlayError


class Inside:
    """A namespace that is the one of the test, or that has no socket."""

    def __init__(self, *, has_sockets: bool = True) -> None:
        self._has_sockets = has_sockets

    async def inner_socket(self, family: int) -> socket.socket:
        if not self._has_sockets:
            raise OSError("no descriptor is left")
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    await writer.drain()
    writer.close()


def heard(inside: Inside, *, is_there: bool = True) -> bytes:
    async def act() -> bytes:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as command:
            port = command.sockets[0].getsockname()[1]
            if not is_there:
                command.close()
            (server,) = await publish((Publication("127.0.0.1", 0, port),), inside)
            async with server:
                where = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*where)
                writer.write(b"hello")
                try:
                    return await asyncio.wait_for(reader.read(), 5)
                except ConnectionResetError:
                    return b"reset"
                finally:
                    writer.close()

    return asyncio.run(act())


def test_published_port_is_that_of_the_command() -> None:
    assert heard(Inside()) == b"hello"


def test_published_port_on_which_nobody_listens_is_reset() -> None:
    assert heard(Inside(), is_there=False) == b"reset"


def test_published_port_without_a_socket_inside_is_reset() -> None:
    assert heard(Inside(has_sockets=False)) == b"reset"


def test_port_that_is_taken_is_an_error_and_the_others_are_given_back() -> None:
    async def act() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            publications = tuple(
                Publication("127.0.0.1", one, 80) for one in (port, taken.getsockname()[1])
            )
            with pytest.raises(OverlayError, match="choose another port"):
                await publish(publications, Inside())
            await asyncio.sleep(0)
            socket.create_server(("127.0.0.1", port)).close()

    asyncio.run(act())
