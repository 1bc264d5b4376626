"""The TCP flows of a tunnel: for each of the gate's, a channel of the session.

A flow is opened at the far end before its handshake is completed here, so what the application
sees is what the far end saw. The socket comes later and is joined to the channel that waits.

A gate that replaces a killed one knows nothing, and is told which flows there are. Openings that
the old one had asked for are void: the packets that waited for them are gone with it.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Protocol

from shim.protocol.gate import (
    MAX_CLOSED,
    MAX_KNOWN,
    Adopt,
    Cancel,
    Closed,
    DropReason,
    Known,
    Open,
    Opened,
    Reason,
    Refused,
)
from shim.protocol.link import Message
from vpn.control.messages import Exit, FlowState, FlowStatus
from vpn.protocol.failure import Failure, OpenFailed
from vpn.transport.pump import Pump

CLOSED_AFTER_S: Final = 0.05
_LAST_DATA: Final = struct.Struct("44xI4xI")
"""Milliseconds since data was sent and received, in struct tcp_info (linux/tcp.h)."""

RESERVED_FILES: Final = 64
"""Descriptors that are not for flows: the session, questions about names, `status`."""

REASONS: Final = {
    Failure.ECONNREFUSED: Reason.REFUSED,
    Failure.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    Failure.ENETUNREACH: Reason.NET_UNREACHABLE,
    Failure.ETIMEDOUT: Reason.TIMED_OUT,
    Failure.NXDOMAIN: Reason.HOST_UNREACHABLE,
    Failure.POLICY: Reason.DENIED,
    Failure.UNAVAILABLE: Reason.NET_UNREACHABLE,
    Failure.UNSUPPORTED: Reason.NET_UNREACHABLE,
}
"""What an application is told. A name without an address is a host that cannot be reached."""


class Opener(Protocol):
    """A way to open channels."""

    async def open(self, host: str, port: int) -> Pump:
        """Return a pump whose far side is the channel. Raises OpenFailed."""
        ...


@dataclass(slots=True)
class Counters:
    """Counts since the tunnel was made. `active` flows have a socket."""

    active: int = 0
    opened: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    """Packets that no gate of this client has carried or answered."""


@dataclass(slots=True)
class _Opening:
    """A flow that the far end has not opened yet."""

    asked: Open
    since: float
    task: asyncio.Task[None]


@dataclass(slots=True)
class _Flow:
    """A flow that is open at the far end. `sock` is the application's, once it is accepted."""

    asked: Open
    since: float
    pump: Pump
    sock: socket.socket | None = None


class Flows:
    """All flows between a gate and a session."""

    def __init__(self, opener: Opener, send: Callable[[Message], None]) -> None:
        self._opener = opener
        self._send = send
        self._opening: dict[int, _Opening] = {}
        self._flows: dict[int, _Flow] = {}
        self._attaching: set[asyncio.Task[None]] = set()
        self._closed: list[int] = []
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES
        self.counters = Counters()

    def on_open(self, message: Open) -> None:
        """An application connects. Refused if there is no descriptor left for its socket.

        A message whose descriptor finds no room is truncated, and would end the link (unix(7)).
        """
        if len(self._opening) + len(self._flows) >= self._most:
            self.counters.refused += 1
            self._send(Refused(message.flow, Reason.NET_UNREACHABLE))
            return
        since = time.monotonic()
        task = asyncio.create_task(self._open(message, since))
        self._opening[message.flow] = _Opening(message, since, task)
        task.add_done_callback(lambda _: self._opening.pop(message.flow, None))

    def on_cancel(self, message: Cancel) -> None:
        """The application has given up."""
        opening = self._opening.get(message.flow)
        if opening is not None:
            opening.task.cancel()
        opened = self._flows.pop(message.flow, None)
        if opened is not None:
            opened.pump.abort()

    def on_accepted(self, flow: int, fd: int) -> None:
        """The application is connected: `fd` is the socket that its connection ends at."""
        # Given, not read from the kernel: the gate's listener is dual-stack TCP.
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
        opened = self._flows.get(flow)
        if opened is None:
            sock.close()
            self._on_closed(flow)
            return
        opened.sock = sock
        pump = opened.pump
        self.counters.active += 1
        pump.on_done(lambda done: self._on_done(flow, done))
        task = asyncio.create_task(self._attach(pump, sock))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    @property
    def sent_bytes(self) -> int:
        """Bytes that have gone into the session."""
        live = (flow.pump for flow in self._flows.values())
        return self.counters.bytes_up + sum(pump.bytes_up - pump.unsent for pump in live)

    def kill(self, flow: int) -> bool:
        """Reset a flow at both ends. False if there is none of this number."""
        if flow in self._flows:
            self._flows[flow].pump.abort()
        elif flow in self._opening:
            self._opening[flow].task.cancel()
            self._send(Refused(flow, Reason.REFUSED))
        else:
            return False
        return True

    def list(self, exit_of: Callable[[str], Exit]) -> list[FlowStatus]:
        """Return all flows, oldest first; `exit_of` says where those to a host leave."""
        now = time.monotonic()
        asked = {number: (one.asked, one.since) for number, one in self._opening.items()}
        asked |= {number: (one.asked, one.since) for number, one in self._flows.items()}
        return [
            self._status_of(message, int(now - since), exit_of(message.host))
            for message, since in sorted(asked.values(), key=lambda one: one[1])
        ]

    def abort(self) -> None:
        """Reset every flow: the session is gone."""
        for opening in list(self._opening.values()):
            opening.task.cancel()
        for opened in list(self._flows.values()):
            opened.pump.abort()

    def on_started(self) -> None:
        """A gate has replaced another: tell it which flows there are."""
        for opening in list(self._opening.values()):
            opening.task.cancel()
        known = [
            Known(flow, one.asked.key, one.sock is not None) for flow, one in self._flows.items()
        ]
        known.sort(key=lambda one: one.flow)
        for start in range(0, len(known), MAX_KNOWN):
            self._send(Adopt(tuple(known[start : start + MAX_KNOWN])))

    def _status_of(self, asked: Open, age_s: int, leaves: Exit) -> FlowStatus:
        source, source_port = source_of(asked.key)
        flow = self._flows.get(asked.flow)
        return FlowStatus(
            id=f"t{asked.flow}",
            protocol="tcp",
            source=source,
            source_port=source_port,
            destination=asked.host,
            destination_port=asked.port,
            state="opening" if flow is None else _state_of(flow),
            bytes_up=0 if flow is None else flow.pump.bytes_up,
            bytes_down=0 if flow is None else flow.pump.bytes_down,
            age_s=age_s,
            idle_s=age_s if flow is None or flow.sock is None else idle_ms(flow.sock) // 1000,
            exit=leaves,
        )

    async def _open(self, message: Open, since: float) -> None:
        try:
            pump = await self._opener.open(message.host, message.port)
        except OpenFailed as error:
            self.counters.refused += 1
            self._send(Refused(message.flow, REASONS[error.failure]))
            return
        # Before the task has ended: a flow counts once, also for the next one that is asked for.
        del self._opening[message.flow]
        self._flows[message.flow] = _Flow(message, since, pump)
        self.counters.opened += 1
        self._send(Opened(message.flow))

    async def _attach(self, pump: Pump, sock: socket.socket) -> None:
        try:
            await pump.attach(sock)
        except OSError:
            pump.abort()

    def _on_done(self, flow: int, pump: Pump) -> None:
        self._flows.pop(flow, None)
        self.counters.active -= 1
        self.counters.bytes_up += pump.bytes_up
        self.counters.bytes_down += pump.bytes_down
        self._on_closed(flow)

    def _on_closed(self, flow: int) -> None:
        """Tell the gate a little later: it is not urgent, and many flows make one message."""
        if not self._closed:
            asyncio.get_running_loop().call_later(CLOSED_AFTER_S, self._send_closed)
        self._closed.append(flow)

    def _send_closed(self) -> None:
        for start in range(0, len(self._closed), MAX_CLOSED):
            self._send(Closed(tuple(self._closed[start : start + MAX_CLOSED])))
        self._closed.clear()


def _state_of(flow: _Flow) -> FlowState:
    if flow.sock is None:
        return "opening"
    match flow.pump.has_ended:
        case True, True:
            return "closing"
        case True, False:
            return "half-closed-local"
        case False, True:
            return "half-closed-remote"
    return "open"


def source_of(key: bytes) -> tuple[str, int]:
    """Return the source address and port in a flow's key; ("", 0) if it is no key.

    A key is source and destination address and port in network order (`shim.protocol.gate`).
    """
    if len(key) not in (12, 36):
        return "", 0
    return str(ip_address(key[: (len(key) - 4) // 2])), int.from_bytes(key[-4:-2])


def idle_ms(sock: socket.socket) -> int:
    """Return how long a TCP socket has neither sent nor received data, by TCP_INFO (tcp(7))."""
    with suppress(OSError):  # it has just been closed
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
        sent_ms, received_ms = _LAST_DATA.unpack(info)
        return int(min(sent_ms, received_ms))
    return 0
