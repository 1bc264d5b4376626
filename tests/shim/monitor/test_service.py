"""The monitor's dispatch as a dialogue: what is allowed when, and what ends the link."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from shim import protocol
from shim.monitor.plan import Rule
from shim.monitor.service import Service
from shim.protocol.common import Failed, Fault, Hello
from shim.protocol.link import LinkClosedError, Message, pair
from shim.protocol.monitor import (
    CLIENT_OF_MONITOR,
    MONITOR,
    Capture,
    Captured,
    Down,
    Prefix,
    Welcome,
)

NET = Prefix(bytes([10, 0, 0, 0]), 8)


class World:
    """A state and a netlink in one, which may fail."""

    def __init__(self) -> None:
        self.journal: list[Rule] = []
        self.rules: list[Rule] = []
        self.fails_at: int | None = None
        self.disk_full_at: int | None = None

    def record(self, rule: Rule) -> None:
        if self.disk_full_at == len(self.journal):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.journal.append(rule)

    def add_rule(self, rule: Rule) -> None:
        if self.fails_at == len(self.rules):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.rules.append(rule)

    def undo(self, _: object) -> None:
        self.rules = [rule for rule in self.rules if rule not in self.journal]
        self.journal.clear()


class Conversation:
    """A client that speaks with a monitor in another thread."""

    def __init__(self) -> None:
        self.world = World()
        self.client, monitor = pair(CLIENT_OF_MONITOR, MONITOR)
        self._gate, self._other = socket.socketpair()
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end, end = os.pipe()
        self._stop = end
        service = Service(
            monitor,
            self.world,  # type: ignore[arg-type]
            self.world,  # type: ignore[arg-type]
            (4, 6),
            self._gate,
            self._control,
        )

        def serve() -> None:
            service.run(self._end)
            monitor.close()

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def say(self, message: Message) -> Message:
        """Send a message and return the answer. Raises LinkClosedError if there is none."""
        self.client.send(message)
        return self.hear()

    def hear(self) -> Message:
        while True:
            received = self.client.receive()
            if received is not None:
                for fd in received[1]:
                    os.close(fd)
                return received[0]

    def is_over(self) -> bool:
        self._thread.join(5)
        return not self._thread.is_alive()

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(5)
        os.close(self._end)
        for link in (self.client, self._gate, self._other, self._control):
            link.close()


@pytest.fixture
def conversation() -> Iterator[Conversation]:
    one = Conversation()
    yield one
    one.close()


def test_hello_is_welcomed(conversation: Conversation) -> None:
    assert conversation.say(Hello(protocol.VERSION)) == Welcome(protocol.VERSION, "ovpn0")


def test_capture_puts_every_rule_into_the_journal_before_it_is_made(
    conversation: Conversation,
) -> None:
    conversation.say(Hello(protocol.VERSION))
    assert conversation.say(Capture(True, True, (NET,))) == Captured()
    assert conversation.world.rules == conversation.world.journal
    assert conversation.world.rules


@pytest.mark.parametrize("place", [0, 5])
def test_capture_that_fails_half_way_leaves_nothing(conversation: Conversation, place: int) -> None:
    conversation.say(Hello(protocol.VERSION))
    conversation.world.fails_at = place
    answer = conversation.say(Capture(True, True, ()))
    assert answer == Failed(Fault.NETLINK, errno.EEXIST)
    assert conversation.world.rules == []


def test_full_disk_is_noticed_before_anything_is_changed(conversation: Conversation) -> None:
    conversation.say(Hello(protocol.VERSION))
    conversation.world.disk_full_at = 0
    assert conversation.say(Capture(True, True, ())) == Failed(Fault.NETLINK, errno.ENOSPC)
    assert conversation.world.rules == []


@pytest.mark.parametrize(
    "messages",
    [
        [Capture(True, True, ())],
        [Hello(protocol.VERSION + 1)],
        [Hello(protocol.VERSION), Hello(protocol.VERSION)],
        [Hello(protocol.VERSION), Capture(False, False, (Prefix(b"12345", 8),))],
        [Hello(protocol.VERSION), Capture(False, False, (Prefix(b"\x0a\0\0\1", 8),))],
        [Hello(protocol.VERSION), Capture(True, True, ()), Capture(True, True, ())],
    ],
    ids=["capture first", "version", "twice", "no address", "host bits", "capture twice"],
)
def test_out_of_state_or_senseless_ends_the_link(
    conversation: Conversation, messages: list[Message]
) -> None:
    for message in messages[:-1]:
        conversation.say(message)
    with pytest.raises(LinkClosedError):
        conversation.say(messages[-1])
    assert conversation.is_over()


def test_down_ends_it_in_any_state(conversation: Conversation) -> None:
    conversation.client.send(Down())
    assert conversation.is_over()


def test_client_that_goes_ends_it(conversation: Conversation) -> None:
    conversation.client.close()
    assert conversation.is_over()
