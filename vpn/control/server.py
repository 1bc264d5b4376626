"""The control server of a running tunnel: one for `up` and for `run`, with one table of requests.

Theory of operation
-------------------
A client that connects is served in a task of its own, so that none waits for another. Only root and
the user whose tunnel it is may ask; every other user is refused at once. A client has `TIMEOUT_S`
to make its request and to read the answer; only `_LASTING` requests take as long as they take.

Destinations and packets are disclosed here and nowhere else. No packet passes through here: a
capture is a socket that is handed over, and it ends with the connection on which it was requested.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from shim.protocol.common import Hello
from shim.protocol.link import LinkClosedError, Message, ViolationError
from shim.protocol.monitor import MAX_PAUSE_S
from vpn.control import messages
from vpn.control.instance import Explainer, Instance
from vpn.control.messages import (
    FLOWS_PER_PAGE,
    VERSION,
    FlowPage,
    FlowStatus,
    Refusal,
    RefusedError,
)
from vpn.control.peer import Peer
from vpn.errors import OverlayError

_RETRY_S: Final = 0.1
_FINISH_S: Final = 1.0


class ControlServer:
    """Answers whoever connects to a listener."""

    def __init__(self, listener: socket.socket, instance: Instance) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._instance = instance
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left; the client waits until there is one
                await asyncio.sleep(_RETRY_S)
                continue
            task = asyncio.create_task(self._serve_one(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """End the events, and let the answers that are under way go out."""
        self._instance.events.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISH_S)

    async def _serve_one(self, sock: socket.socket) -> None:
        peer = Peer(sock)
        try:
            with suppress(OSError, TimeoutError, LinkClosedError, ViolationError):
                await _converse(peer, self._instance)
        finally:
            peer.close()


async def _converse(peer: Peer, instance: Instance) -> None:
    try:
        async with asyncio.timeout(messages.TIMEOUT_S):
            await peer.send(Hello(VERSION))
            request = await _request_of(peer)
        lasts = type(request) in _LASTING
        async with asyncio.timeout(None if lasts else messages.TIMEOUT_S):
            await _HANDLERS[type(request)](peer, instance, request)
    except RefusedError as error:
        await peer.send(messages.Refused(error.why, error.text))
    except OverlayError as error:
        await peer.send(messages.Refused(Refusal.FAILED, str(error)))


async def _request_of(peer: Peer) -> Message:
    """Return the request of a client that may make one. Raises as `Peer.receive`, RefusedError."""
    if peer.uid not in (0, os.geteuid()):
        raise RefusedError(Refusal.NOT_PERMITTED)
    hello = await peer.receive()
    request = await peer.receive()
    if not isinstance(hello, Hello) or isinstance(request, Hello):
        raise ViolationError("one greeting, and then a request")
    if hello.version != VERSION and not isinstance(request, messages.TakeDown):
        raise ViolationError("another version")
    return request


async def _get_status(peer: Peer, instance: Instance, request: messages.GetStatus) -> None:
    await peer.send(messages.StatusAnswer(instance.status()))


async def _take_down(peer: Peer, instance: Instance, request: messages.TakeDown) -> None:
    await instance.take_down()
    await peer.send(messages.Done())


async def _pause_for(peer: Peer, instance: Instance, request: messages.PauseFor) -> None:
    if request.seconds < 0:
        raise RefusedError(Refusal.MALFORMED, "a pause cannot be shorter than nothing")
    await instance.pause(min(request.seconds, MAX_PAUSE_S))
    await peer.send(messages.Done())


async def _list_flows(peer: Peer, instance: Instance, request: messages.ListFlows) -> None:
    tunnel = instance.tunnel
    for page in flow_pages([] if tunnel is None else tunnel.list_flows()):
        await peer.send(page)


def flow_pages(flows: list[FlowStatus]) -> list[FlowPage]:
    """Return a list as pages, of which the last one says so; there is at least one."""
    starts = range(0, max(1, len(flows)), FLOWS_PER_PAGE)
    return [
        FlowPage(tuple(flows[start : start + FLOWS_PER_PAGE]), start == starts[-1])
        for start in starts
    ]


async def _kill_flow(peer: Peer, instance: Instance, request: messages.KillFlow) -> None:
    tunnel = instance.tunnel
    if tunnel is None or not tunnel.kill_flow(request.flow):
        raise RefusedError(Refusal.NO_FLOW)
    await peer.send(messages.Done())


async def _capture_packets(
    peer: Peer, instance: Instance, request: messages.CapturePackets
) -> None:
    if instance.tunnel is None:
        raise RefusedError(Refusal.NOT_UP)
    tap = instance.tunnel.captures
    packets = tap.begin()
    if packets is None:
        raise RefusedError(Refusal.BUSY)
    try:
        with packets:
            await peer.send(messages.Capturing(), (packets.fileno(),))
        await _while_connected(peer, tap.wait())
    finally:
        tap.end()


async def _get_dns_status(peer: Peer, instance: Instance, request: messages.GetDnsStatus) -> None:
    await peer.send(messages.DnsStatusAnswer(await _explainer_of(instance).dns_status()))


async def _get_resolution(peer: Peer, instance: Instance, request: messages.GetResolution) -> None:
    explainer = _explainer_of(instance)
    try:
        found = explainer.resolution(request.name, request.rtype)
    except ValueError:
        raise RefusedError(Refusal.MALFORMED, "not a name") from None
    await peer.send(messages.ResolutionAnswer(found))


async def _get_destination(
    peer: Peer, instance: Instance, request: messages.GetDestination
) -> None:
    explainer = _explainer_of(instance)
    try:
        found = await explainer.destination(request.host, request.port)
    except ValueError:
        raise RefusedError(Refusal.MALFORMED, "neither a name nor an address") from None
    await peer.send(messages.DestinationAnswer(found))


def _explainer_of(instance: Instance) -> Explainer:
    if instance.tunnel is None or instance.tunnel.explainer is None:
        raise RefusedError(Refusal.NOT_UP)
    return instance.tunnel.explainer


async def _get_run(peer: Peer, instance: Instance, request: messages.GetRun) -> None:
    await peer.send(messages.RunAnswer(instance.describe_run()))


async def _get_namespaces(peer: Peer, instance: Instance, request: messages.GetNamespaces) -> None:
    await peer.send(messages.Namespaces(), instance.namespaces())


async def _subscribe(peer: Peer, instance: Instance, request: messages.Subscribe) -> None:
    subscription = instance.events.subscribe()

    async def forward() -> None:
        while (event := await subscription.next()) is not None:
            async with asyncio.timeout(messages.TIMEOUT_S):
                await peer.send(event)

    try:
        await _while_connected(peer, forward())
    finally:
        instance.events.unsubscribe(subscription)


async def _while_connected(peer: Peer, work: Coroutine[Any, Any, None]) -> None:
    """Work until that is done, or the client hangs up."""
    waiting = {asyncio.create_task(work), asyncio.create_task(peer.hang_up())}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


Handler = Callable[[Peer, Instance, Any], Awaitable[None]]

_HANDLERS: Final[dict[type[Message], Handler]] = {
    messages.GetStatus: _get_status,
    messages.TakeDown: _take_down,
    messages.PauseFor: _pause_for,
    messages.ListFlows: _list_flows,
    messages.KillFlow: _kill_flow,
    messages.CapturePackets: _capture_packets,
    messages.GetDnsStatus: _get_dns_status,
    messages.GetResolution: _get_resolution,
    messages.GetDestination: _get_destination,
    messages.GetRun: _get_run,
    messages.GetNamespaces: _get_namespaces,
    messages.Subscribe: _subscribe,
}
_LASTING: Final = frozenset(
    {messages.TakeDown, messages.PauseFor, messages.CapturePackets, messages.Subscribe}
)
"""Requests that take longer than `TIMEOUT_S`."""
