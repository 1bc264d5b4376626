"""Messages over a channel: what fits goes in datagrams if that was agreed, else in the stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from message_end import MessageEnd

from vpn.protocol.framing import frame
from vpn.protocol.message_channel import MessageChannel

MOST = 1000


class Datagrams:
    """Those of a channel, up to ten octets."""

    max_bytes = 10

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.on_datagram: Callable[[bytes], object] = lambda _: None

    def send(self, data: bytes) -> bool:
        self.sent.append(data)
        return True


class Bench:
    """A message channel over a channel with datagrams, and what it says."""

    def __init__(self, *, in_datagrams: bool = True, has_datagrams: bool = True) -> None:
        self.datagrams = Datagrams()
        self.channel = MessageEnd(MOST, datagrams=self.datagrams if has_datagrams else None)
        self.heard: list[bytes] = []
        self.events: list[str] = []
        self.messages = MessageChannel(
            MOST,
            self._hear,
            lambda: self.events.append("end"),
            in_datagrams=in_datagrams,
            on_pause=lambda: self.events.append("pause"),
            on_resume=lambda: self.events.append("resume"),
        )
        self.messages.connection_made(self.channel)

    def _hear(self, message: bytes) -> None:
        if message == b"nonsense":
            raise ValueError
        self.heard.append(message)


def test_small_message_is_a_datagram_and_a_large_one_in_the_stream() -> None:
    bench = Bench()
    assert bench.messages.send(bytes(10))
    assert bench.messages.send(bytes(11))
    assert (bench.datagrams.sent, bench.channel.sent) == ([bytes(10)], [bytes(11)])


@pytest.mark.parametrize("lack", [{"in_datagrams": False}, {"has_datagrams": False}])
def test_not_agreed_or_not_there_all_is_in_the_stream(lack: dict[str, bool]) -> None:
    bench = Bench(**lack)
    assert bench.messages.send(b"small")
    assert (bench.datagrams.sent, bench.channel.sent) == ([], [b"small"])
    bench.datagrams.on_datagram(b"forged")
    assert bench.heard == []


def test_both_ways_are_heard() -> None:
    bench = Bench()
    bench.messages.data_received(frame(b"in the stream")[:7])
    bench.datagrams.on_datagram(b"in a datagram")
    bench.messages.data_received(frame(b"in the stream")[7:])
    assert bench.heard == [b"in a datagram", b"in the stream"]


def test_full_stream_loses_what_does_not_fit_a_datagram() -> None:
    bench = Bench()
    bench.messages.pause_writing()
    assert not bench.messages.send(bytes(11))
    assert bench.messages.send(bytes(10))
    bench.messages.resume_writing()
    assert bench.messages.send(bytes(11))
    assert bench.events == ["pause", "resume"]


@pytest.mark.parametrize("way", ["stream", "datagram", "too large"])
def test_nonsense_ends_the_channel_once_and_nothing_more_is_heard(way: str) -> None:
    bench = Bench()
    if way == "datagram":
        bench.datagrams.on_datagram(b"nonsense")
    elif way == "stream":
        bench.messages.data_received(frame(b"nonsense") + frame(b"more"))
    else:
        bench.messages.data_received((MOST + 1).to_bytes(4))
    assert bench.channel.is_aborted
    bench.datagrams.on_datagram(b"more")
    bench.messages.connection_lost(None)
    assert (bench.heard, bench.events) == ([], ["end"])
    assert bench.messages.has_ended
    assert not bench.messages.send(b"more")


def test_nothing_is_sent_before_there_is_a_channel() -> None:
    messages = MessageChannel(MOST, print, lambda: None, in_datagrams=True)
    assert not messages.send(b"early")
    messages.pause_writing()
    messages.resume_writing()
    messages.end()
    assert messages.has_ended


def test_message_that_ends_the_channel_is_the_last_one_heard() -> None:
    channel, heard = MessageEnd(MOST), list[bytes]()

    def hear(message: bytes) -> None:
        heard.append(message)
        messages.end()

    messages = MessageChannel(MOST, hear, lambda: None)
    messages.connection_made(channel)
    messages.data_received(frame(b"last") + frame(b"more"))
    assert heard == [b"last"]
