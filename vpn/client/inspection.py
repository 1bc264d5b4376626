"""What a running client tells whoever may ask: its flows, the end of one, its packets.

Both `up` and `run` answer so, on sockets of their own; who may ask is decided there. Destinations
and packets are told here and nowhere else.

Who asks for packets is answered with a socket from which they come (`shim.protocol.tap`); the
capture is over when the connection on which it was asked for ends.

What is explained (`explain.py`) is one JSON document, in as many packets as it takes.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from vpn.client import listing
from vpn.client.packet_tap import Captures
from vpn.client.questions import BUSY, CAPTURE, DONE, FLOWS, KILL, NO_FLOW, NOT_UP, TIMEOUT_S
from vpn.control.messages import FlowStatus

if TYPE_CHECKING:
    from vpn.client.explain import Explainer

_CHUNK: Final = 32768


class Inspected(Protocol):
    """What has flows and packets."""

    captures: Captures
    explainer: Explainer | None

    def list_flows(self) -> list[FlowStatus]:
        """Return all flows, oldest first."""
        ...

    def kill_flow(self, flow: str) -> bool:
        """Reset a flow at both ends. False if there is none of this id."""
        ...


async def answer(sock: socket.socket, question: bytes, inspected: Inspected | None) -> None:
    """Answer a question on a connection; `inspected` is None as long as there is nothing to see.

    Raises OSError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    if question == CAPTURE:
        await _capture(sock, inspected)
        return
    async with asyncio.timeout(TIMEOUT_S):
        if question == FLOWS:
            flows = [] if inspected is None else inspected.list_flows()
            for packet in listing.packets(flows):
                await loop.sock_sendall(sock, packet)
        elif question.startswith(KILL):
            flow = question.removeprefix(KILL).decode(errors="replace")
            is_killed = inspected is not None and inspected.kill_flow(flow)
            await loop.sock_sendall(sock, DONE if is_killed else NO_FLOW)
        elif inspected is None or inspected.explainer is None:
            await loop.sock_sendall(sock, NOT_UP)
        else:
            document = await _explain(inspected.explainer, question.decode(errors="replace"))
            for start in range(0, len(document), _CHUNK):
                await loop.sock_sendall(sock, document[start : start + _CHUNK])
            await loop.sock_sendall(sock, listing.END)


async def _explain(explainer: Explainer, question: str) -> bytes:
    """Return a document, empty for a question that is none."""
    try:
        match question.split(" "):
            case ["dns"]:
                return msgspec.json.encode(await explainer.dns())
            case ["way", rtype, name]:
                return msgspec.json.encode(explainer.way(name, int(rtype)))
            case ["fate", port, host]:
                return msgspec.json.encode(await explainer.fate(host, int(port)))
    except ValueError:
        pass
    return b""


async def _capture(sock: socket.socket, inspected: Inspected | None) -> None:
    """Hand packets over until whoever asked goes away, or the capture is over."""
    loop = asyncio.get_running_loop()
    if inspected is None:
        await loop.sock_sendall(sock, NOT_UP)
        return
    captures = inspected.captures
    packets = captures.begin()
    if packets is None:
        await loop.sock_sendall(sock, BUSY)
        return
    with packets:
        try:
            socket.send_fds(sock, [DONE], [packets.fileno()])
        except OSError:
            captures.end()
            raise
    waiting = [
        asyncio.ensure_future(loop.sock_recv(sock, 1)),
        asyncio.ensure_future(captures.wait()),
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        captures.end()
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
