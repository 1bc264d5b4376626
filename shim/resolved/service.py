"""The resolved helper: sandboxed, it configures systemd-resolved and NetworkManager.

Theory of operation
-------------------
Setting the resolver of a link needs root, or an authorization of polkit. The client has neither,
and the monitor, which could have it, must not parse D-Bus. So this is a process of its own. It is
started with the identity of the user who runs `up`, and gets the names of the tunnel before the
client drops its privileges. From then on the client can send no more than `Announce` and
`Withdraw`, and all that these do is what stands in `methods.py`, for the capture TUN.

It reads no further message before it has connected to the bus and confined itself. It keeps its
user id, which is the one that the bus names to polkit.

Nothing has to be undone after a crash: resolved and NetworkManager forget a link that goes. At the
end the settings are reverted for the moment until then.

No service is started for it, and it waits for none longer than `PATIENCE_S`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

from shim import linux
from shim.protocol import DEVICE
from shim.protocol.link import Link, LinkClosedError, ViolationError
from shim.protocol.resolved import (
    ABSENT,
    RESOLVED,
    Announce,
    Answer,
    Outcome,
    Suffixes,
    Told,
    Withdraw,
)
from shim.resolved import bus, methods
from shim.resolved.bus import Bus, CallError
from shim.resolved.methods import Call
from shim.sandbox import seccomp
from shim.sandbox.stages import Profile, enter

PATIENCE_S: Final = 3.0
_LAST_PATIENCE_S: Final = 1.0
"""For the revert at the end: the link goes anyway."""

SYSCALLS: Final = bus.SYSCALLS | {"recvmsg"}
"""Its link sends no descriptors, hence no sendmsg."""
PROFILE: Final = Profile(SYSCALLS, is_nobody=False)

_LONGEST_ERROR: Final = 200


def main(sock: socket.socket) -> int:
    """Serve a client until it is gone. Returns the exit status."""
    client = Link(sock, RESOLVED)
    try:
        names = _next(client)
        if not isinstance(names, Suffixes):
            return 1
        _wait(client)
        system = Bus(time.monotonic() + PATIENCE_S)
    except (OSError, LinkClosedError, ViolationError):
        return 0  # no client, or no bus
    index = socket.if_nametoindex(DEVICE)
    linux.close_all_but({0, 1, 2, client.fileno(), system.fileno()})
    enter(PROFILE, seccomp.assemble(SYSCALLS))
    host = Host(system, index, names.suffixes)
    try:
        while True:
            _answer(client, host)
    except (LinkClosedError, ViolationError):
        host.withdraw()
    return 0


class Host:
    """systemd-resolved and NetworkManager, and whether one link is announced to them."""

    def __init__(self, system: Bus, index: int, suffixes: tuple[str, ...]) -> None:
        self._system = system
        self._index = index
        self._suffixes = suffixes
        self._is_announced = False

    def announce(self) -> Told:
        """Have names resolved through the link, and the link left unmanaged."""
        self._system.give_until(time.monotonic() + PATIENCE_S)
        # First, so that it does not override what is set then.
        manager = self._with(methods.NETWORK_MANAGER, self._leave_alone)
        self._is_announced = True
        resolved = self._with(methods.RESOLVED, self._set_up)
        if resolved.outcome is not Outcome.DONE:
            self.withdraw()
        return Told(resolved, manager)

    def withdraw(self) -> Told:
        """Have the settings of the link reverted, if there are any."""
        if not self._is_announced:
            return Told(ABSENT, ABSENT)
        self._is_announced = False
        self._system.give_until(time.monotonic() + _LAST_PATIENCE_S)
        return Told(self._with(methods.RESOLVED, self._revert), ABSENT)

    def _set_up(self) -> None:
        self._make(methods.set_up(self._index, self._suffixes))

    def _revert(self) -> None:
        self._make(methods.revert(self._index))

    def _leave_alone(self) -> None:
        try:
            (device,) = self._system.call(methods.find_device())
        except CallError as error:
            if str(error) == methods.UNKNOWN_DEVICE:
                return  # it does not manage the link
            raise
        self._system.call(methods.leave_alone(str(device)))

    def _make(self, wanted: Iterable[Call]) -> None:
        for call in wanted:
            try:
                self._system.call(call)
            except CallError as error:
                if not (call.may_lack and str(error) in methods.UNKNOWN):
                    raise

    def _with(self, service: str, work: Callable[[], None]) -> Answer:
        try:
            if not self._system.has(service):
                return ABSENT
            work()
        except CallError as error:
            name = str(error)
            outcome = Outcome.REFUSED if name in methods.DENIED else Outcome.FAILED
            return Answer(outcome, name[:_LONGEST_ERROR])
        except TimeoutError:
            return Answer(Outcome.SILENT)
        except (OSError, ValueError) as error:
            return Answer(Outcome.FAILED, str(error)[:_LONGEST_ERROR])
        return Answer(Outcome.DONE)


def _answer(client: Link, host: Host) -> None:
    match _next(client):
        case Announce():
            told = host.announce()
        case Withdraw():
            told = host.withdraw()
        case _:
            raise ViolationError("its names are known")
    client.send(told)


def _next(client: Link) -> object:
    while (received := client.receive()) is None:
        _wait(client)
    return received[0]


def _wait(client: Link) -> None:
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN)
    poll.poll()
