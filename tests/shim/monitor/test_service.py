"""The monitor's dispatch as a dialogue: what is allowed when, and what ends the link."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network

import pytest

from shim import protocol
from shim.monitor import service as module
from shim.monitor.plan import EVERYTHING, Network, changes
from shim.monitor.service import Service
from shim.netlink.changes import Change, KillSwitch, Rule
from shim.protocol import monitor as messages
from shim.protocol.common import Failed, Fault, Hello, Missing
from shim.protocol.handover import pair
from shim.protocol.link import LinkClosedError, Message
from shim.protocol.monitor import Capture, Captured, Down, Mark, Marked, Pause, Paused, Prefix

ALL = tuple(map(ip_network, EVERYTHING))
NET = Prefix(bytes([10, 0, 0, 0]), 8)


class World:
    """A state and a netlink in one, which may fail."""

    def __init__(self) -> None:
        self.held: list[Change] = []
        self.there: list[Change] = []
        self.open_for: list[int] = []
        self.error: OSError | None = None

    def make(self, first: object, plan: list[Change] | None = None) -> None:
        if isinstance(first, Rule):  # as a netlink
            self.there.append(first)
            return
        assert plan is not None  # as a state
        if self.error:
            raise self.error
        self.held = self.there = list(plan)

    def revert(self, change: Change) -> None:
        self.there = [one for one in self.there if one != change]

    def pause(self, switch: KillSwitch, seconds: int) -> None:
        self.open_for.append(seconds)


class Conversation:
    """A client that speaks with a monitor in another thread."""

    def __init__(self, routes: tuple[Network, ...] = ALL, netns: bytes = b"") -> None:
        self.world = World()
        self.client, monitor = pair(messages.CLIENT_OF_MONITOR, messages.MONITOR)
        self._gate, self._other = socket.socketpair()
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end, end = os.pipe()
        self._stop = end
        service = Service(
            monitor,
            self.world,  # type: ignore[arg-type]
            self.world,  # type: ignore[arg-type]
            (4, 6),
            routes,
            self._gate,
            self._control,
            netns,
            (Missing.LANDLOCK,),
        )

        self.was_done: bool | None = None

        def serve() -> None:
            self.was_done = service.run(self._end)
            monitor.close()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()

    def say(self, message: Message, *fds: int) -> Message:
        """Send a message and return the answer. Raises LinkClosedError if there is none."""
        self.client.send(message, fds)
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
    with closing(Conversation()) as one:
        yield one


def test_hello_is_welcomed(conversation: Conversation) -> None:
    welcome = conversation.say(Hello(protocol.VERSION))
    assert welcome == messages.Welcome(protocol.VERSION, "ovpn0", (Missing.LANDLOCK,))


def test_capture_makes_what_was_planned(conversation: Conversation) -> None:
    conversation.say(Hello(protocol.VERSION))
    assert conversation.say(Capture(True, True, (NET,))) == Captured()
    assert conversation.world.there == changes(Capture(True, True, (NET,)))


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOSPC])
def test_capture_that_fails_may_be_asked_for_again(conversation: Conversation, number: int) -> None:
    conversation.say(Hello(protocol.VERSION))
    conversation.world.error = OSError(number, os.strerror(number))
    assert conversation.say(Capture(True, True, ())) == Failed(Fault.NETLINK, number)
    conversation.world.error = None
    assert conversation.say(Capture(True, True, ())) == Captured()


def capturing(conversation: Conversation) -> World:
    conversation.say(Hello(protocol.VERSION))
    conversation.say(Capture(True, True, (), kill_switch=True))
    return conversation.world


def test_pause_takes_the_rules_away_and_opens_the_switch(conversation: Conversation) -> None:
    world = capturing(conversation)
    assert conversation.say(Pause(60)) == Paused()
    assert not [change for change in world.there if isinstance(change, Rule)]
    assert world.open_for == [60]


def test_pause_of_nothing_ends_a_pause(conversation: Conversation) -> None:
    world = capturing(conversation)
    conversation.say(Pause(60))
    assert conversation.say(Pause(0)) == Paused()
    assert set(world.there) == set(world.held)
    assert world.open_for == [60, 0]


def test_pause_ends_by_itself(conversation: Conversation) -> None:
    world = capturing(conversation)
    conversation.say(Pause(1))
    assert world.there != world.held
    deadline_s = time.monotonic() + 10
    while set(world.there) != set(world.held):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_second_pause_takes_the_place_of_the_first(conversation: Conversation) -> None:
    world = capturing(conversation)
    conversation.say(Pause(60))
    conversation.say(Pause(30))
    assert not [change for change in world.there if isinstance(change, Rule)]
    assert world.open_for == [60, 0, 30]


@pytest.mark.parametrize(
    "messages",
    [
        [Capture(True, True, ())],
        [Hello(protocol.VERSION + 1)],
        [Hello(protocol.VERSION), Hello(protocol.VERSION)],
        [Hello(protocol.VERSION), Capture(False, False, (Prefix(b"12345", 8),))],
        [Hello(protocol.VERSION), Capture(False, False, (Prefix(b"\x0a\0\0\1", 8),))],
        [Hello(protocol.VERSION), Capture(True, True, ()), Capture(True, True, ())],
        [Hello(protocol.VERSION), Pause(1)],
        [Hello(protocol.VERSION), Capture(True, True, ()), Pause(messages.MAX_PAUSE_S + 1)],
        [Hello(protocol.VERSION), Capture(True, True, ()), Pause(-1)],
    ],
    ids=[
        "capture first",
        "version",
        "twice",
        "no address",
        "host bits",
        "capture twice",
        "pause first",
        "pause too long",
        "pause of less than nothing",
    ],
)
def test_out_of_state_or_senseless_ends_the_link(
    conversation: Conversation, messages: list[Message]
) -> None:
    for message in messages[:-1]:
        conversation.say(message)
    with pytest.raises(LinkClosedError):
        conversation.say(messages[-1])
    assert conversation.is_over()


@pytest.mark.parametrize(
    "kind",
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
        (socket.AF_INET, socket.SOCK_STREAM, 262),
    ],
    ids=["Unix", "netlink", "MPTCP"],
)
def test_socket_that_is_no_outer_socket_ends_the_link(
    conversation: Conversation, kind: tuple[int, int, int]
) -> None:
    conversation.say(Hello(protocol.VERSION))
    with socket.socket(*kind) as sock, pytest.raises(LinkClosedError):
        conversation.say(Mark(), sock.fileno())
    assert conversation.is_over()


def test_descriptor_that_is_no_socket_ends_the_link(conversation: Conversation) -> None:
    conversation.say(Hello(protocol.VERSION))
    with open(os.devnull) as file, pytest.raises(LinkClosedError):
        conversation.say(Mark(), file.fileno())
    assert conversation.is_over()


def test_socket_of_another_network_ends_the_link() -> None:
    with closing(Conversation(netns=bytes(8))) as conversation:
        conversation.say(Hello(protocol.VERSION))
        with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(LinkClosedError):
            conversation.say(Mark(), sock.fileno())
        assert conversation.is_over()


def test_down_ends_it_in_any_state(conversation: Conversation) -> None:
    conversation.client.send(Down())
    assert conversation.is_over()
    assert conversation.was_done is True


def test_client_that_goes_ends_it(conversation: Conversation) -> None:
    conversation.client.close()
    assert conversation.is_over()
    assert conversation.was_done is False


def test_what_the_policy_does_not_allow_is_refused_and_may_be_asked_better() -> None:
    with closing(Conversation((ip_network("10.0.0.0/8"),))) as conversation:
        conversation.say(Hello(protocol.VERSION))
        assert conversation.say(Capture(True, False, ())) == Failed(Fault.POLICY, 0)
        assert conversation.say(Capture(False, True, (NET,))) == Failed(Fault.POLICY, 0)
        assert conversation.world.there == []
        assert conversation.say(Capture(False, False, (NET,))) == Captured()


def test_what_is_passed_to_the_client_is_closed_here(conversation: Conversation) -> None:
    assert os.path.exists(f"/proc/self/fd/{conversation._gate.fileno()}")
    conversation.say(Hello(protocol.VERSION))
    conversation.client.send(Down())  # by then the handler of the first message has returned
    assert conversation.is_over()
    assert conversation._gate.fileno() == conversation._control.fileno() == -1


@pytest.mark.parametrize("phase", ["new", "ready"])
def test_descriptor_that_comes_with_a_message_is_closed_whatever_becomes_of_it(
    conversation: Conversation, phase: str
) -> None:
    if phase == "ready":
        conversation.say(Hello(protocol.VERSION))
    ours, theirs = socket.socketpair()
    with ours:
        conversation.client.send(Mark(), (theirs.fileno(),))
        theirs.close()
        ours.settimeout(5)
        assert ours.recv(1) == b""  # the last copy of the other end is closed
        assert conversation.is_over()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_outer_socket_is_marked(
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
    family: socket.AddressFamily,
    kind: socket.SocketKind,
) -> None:
    # An option that needs no capability, in place of the mark.
    monkeypatch.setattr(socket, "SO_MARK", socket.SO_PRIORITY)
    monkeypatch.setattr(module, "MARK", 3)
    conversation.say(Hello(protocol.VERSION))
    with socket.socket(family, kind) as sock:
        assert conversation.say(Mark(), sock.fileno()) == Marked()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3


def test_longest_pause_is_one(conversation: Conversation) -> None:
    world = capturing(conversation)
    assert conversation.say(Pause(messages.MAX_PAUSE_S)) == Paused()
    assert world.open_for == [messages.MAX_PAUSE_S]


def test_descriptor_that_becomes_readable_ends_it(conversation: Conversation) -> None:
    conversation.say(Hello(protocol.VERSION))
    os.write(conversation._stop, b"x")
    assert conversation.is_over()
    assert conversation.was_done is False


def test_client_that_does_not_read_ends_it(conversation: Conversation) -> None:
    capturing(conversation)
    try:
        while conversation.client.send(Pause(0)) or not conversation.is_over():
            pass
    except LinkClosedError:
        pass
    assert conversation.is_over()
    assert conversation.was_done is False
