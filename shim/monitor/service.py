"""The monitor's dispatch: one static table of the requests of a client and their states.

Theory of operation
-------------------
A request is carried out if its type is in `TABLE` and the state is one in which it may come;
anything else ends the link, and with it everything. Each handler does one thing for which the
capability is needed, and answers with one message. What arrives is checked here although the
decoder has checked its type: a prefix must be a prefix, a socket a TCP or UDP one of this network.

The monitor ends when the client goes, when the gate supervisor does, when its launcher dies, or
when it is told to. It undoes nothing itself while the launcher lives: ending is undoing, unless the
kill switch is on; then only `Down` is.

A pause takes away the rules and opens the kill switch. The kernel closes that by itself when the
time is over, so a monitor that dies meanwhile leaves no hole.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from shim.monitor.journal import Journal
from shim.monitor.plan import Network, changes, is_allowed
from shim.netlink.changes import Change, Family, KillSwitch, Rule
from shim.netlink.kernel import Netlink
from shim.netlink.wrapper import FAMILIES
from shim.protocol import DEVICE, MARK, VERSION
from shim.protocol import monitor as messages
from shim.protocol.common import Failed, Fault, Hello, Missing
from shim.protocol.launcher import NETNS_COOKIE
from shim.protocol.link import Link, LinkClosedError, Message, ViolationError

C = TypeVar("C", bound=Change)

SYSCALLS: Final = frozenset({"fcntl", "getsockopt", "poll", "setsockopt"})

_TCP, _UDP = (socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)


class Phase(Enum):
    """The state of a client."""

    NEW = auto()
    READY = auto()
    CAPTURING = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """The states in which a request is allowed, and its handler."""

    phases: frozenset[Phase]
    handler: Callable[..., None]
    """Called with the service, the message and its descriptors, which are closed afterwards."""


@dataclass
class Service:
    """Serves one client."""

    client: Link
    journal: Journal
    netlink: Netlink
    families: tuple[Family, ...]
    """Those that the kernel has."""
    routes: tuple[Network, ...]
    """What is captured lies in one of these."""
    gate: socket.socket
    """Given to the client: its link to the gate."""
    control: socket.socket
    """Given to the client: where it answers the command line."""
    netns: bytes
    """The network that is changed; see `shim.protocol.launcher.Serve`."""
    missing: tuple[Missing, ...]
    phase: Phase = Phase.NEW
    _paused_until_s: float | None = None

    def run(self, *ends: int) -> bool:
        """Serve until a descriptor of `ends` becomes readable, or the client is done or gone.

        Returns whether the client has sent `Down`. Raises OSError if the rules cannot be made again
        after a pause.
        """
        poll = select.poll()
        for fd in (self.client.fileno(), *ends):
            poll.register(fd, select.POLLIN)
        while self.phase is not Phase.OVER:
            ready = [fd for fd, _ in poll.poll(self._remaining_ms())]
            if any(fd in ends for fd in ready):
                return False
            if self._remaining_ms() == 0:
                self._resume()
            try:
                received = self.client.receive()
                if received is not None:
                    self._on_message(*received)
            except (LinkClosedError, ViolationError):
                return False
        return True

    def _on_message(self, message: Message, fds: list[int]) -> None:
        entry = TABLE[type(message)]
        try:
            if self.phase not in entry.phases:
                raise ViolationError("out of state")
            entry.handler(self, message, *fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _on_hello(self, hello: Hello) -> None:
        if hello.version != VERSION:
            raise ViolationError("another version of the protocol")
        welcome = messages.Welcome(VERSION, DEVICE, self.missing)
        self._send(welcome, self.gate.fileno(), self.control.fileno())
        self.gate.close()
        self.control.close()
        self.phase = Phase.READY

    def _on_mark(self, _: messages.Mark, fd: int) -> None:
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                kind = (sock.type, sock.proto)
                if sock.family not in FAMILIES.values() or kind not in (_TCP, _UDP):
                    raise ViolationError("neither TCP nor UDP")
                if self.netns and sock.getsockopt(socket.SOL_SOCKET, NETNS_COOKIE, 8) != self.netns:
                    raise ViolationError("of another network")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        except OSError as error:
            raise ViolationError("cannot be marked") from error
        self._send(messages.Marked())

    def _on_capture(self, capture: messages.Capture) -> None:
        try:
            is_permitted = is_allowed(capture, self.routes)
            plan = changes(capture, self.families, self.journal.held)
        except ValueError as error:
            raise ViolationError("not a prefix") from error
        if not is_permitted:
            self._send(Failed(Fault.POLICY, 0))
            return
        try:
            self.journal.make(self.netlink, plan)
        except OSError as error:
            self._send(Failed(Fault.NETLINK, error.errno or 0))
            return
        self.phase = Phase.CAPTURING
        self._send(messages.Captured())

    def _on_pause(self, pause: messages.Pause) -> None:
        if not 0 <= pause.seconds <= messages.MAX_PAUSE_S:
            raise ViolationError("not a pause")
        if self._paused_until_s is not None:
            self._resume()
        if pause.seconds:
            self._paused_until_s = time.monotonic() + pause.seconds
            self._open(pause.seconds)
            for rule in reversed(self._plan(Rule)):
                self.netlink.revert(rule)
        self._send(messages.Paused())

    def _resume(self) -> None:
        self._paused_until_s = None
        for rule in self._plan(Rule):
            self.netlink.make(rule)
        self._open(0)

    def _open(self, seconds: int) -> None:
        for switch in self._plan(KillSwitch):
            self.netlink.pause(switch, seconds)

    def _plan(self, kind: type[C]) -> list[C]:
        return [change for change in self.journal.held if isinstance(change, kind)]

    def _remaining_ms(self) -> float | None:
        """The rest of a pause in milliseconds; None if there is none."""
        if self._paused_until_s is None:
            return None
        return max(0.0, (self._paused_until_s - time.monotonic()) * 1000)

    def _on_down(self, _: messages.Down) -> None:
        self.phase = Phase.OVER

    def _send(self, message: Message, *fds: int) -> None:
        if not self.client.send(message, fds):
            raise ViolationError("the client does not read")


TABLE: Final[dict[type[Message], Entry]] = {
    Hello: Entry(frozenset({Phase.NEW}), Service._on_hello),
    messages.Mark: Entry(frozenset({Phase.READY, Phase.CAPTURING}), Service._on_mark),
    messages.Capture: Entry(frozenset({Phase.READY}), Service._on_capture),
    messages.Pause: Entry(frozenset({Phase.CAPTURING}), Service._on_pause),
    messages.Down: Entry(frozenset({Phase.NEW, Phase.READY, Phase.CAPTURING}), Service._on_down),
}
