"""The channel's dialogue with a peer, message by message, over a connection of paper."""

import asyncio
from typing import Any

import pytest
from asyncssh import constants as ssh
from asyncssh.misc import ChannelOpenError, ProtocolError
from asyncssh.packet import Boolean, PacketDecodeError, SSHPacket, String, UInt32
from transport_lab import Recorder, played

from vpn.ssh.session.channel import HIGH_BYTES, MAX_PACKET_BYTES, PACKETS_PER_TURN, Channel
from vpn.ssh.session.pressure import Pressure
from vpn.ssh.session.window import INITIAL_BYTES, WindowBudget

NAMES = {
    ssh.MSG_CHANNEL_DATA: "data",
    ssh.MSG_CHANNEL_EOF: "eof",
    ssh.MSG_CHANNEL_CLOSE: "close",
    ssh.MSG_CHANNEL_OPEN: "open",
    ssh.MSG_CHANNEL_WINDOW_ADJUST: "adjust",
    ssh.MSG_CHANNEL_FAILURE: "failure",
}
NUMBER, PEER = 5, 9


class Paper:
    """A connection that writes down what is sent."""

    def __init__(self) -> None:
        self.pressure = Pressure(asyncio.get_running_loop())
        self.windows = WindowBudget()
        self.sent: list[tuple[str, Any]] = []
        self.is_registered = False

    def add_channel(self, chan: Any) -> int:
        self.is_registered = True
        return NUMBER

    def remove_channel(self, recv_chan: int) -> None:
        assert recv_chan == NUMBER
        assert self.is_registered
        self.is_registered = False

    def send_packet(self, pkttype: int, *args: Any, handler: Any = None) -> None:
        packet = SSHPacket(b"".join(args))
        name = NAMES[pkttype]
        if name == "open":
            self.sent.append((name, packet.get_string()))
            return
        assert packet.get_uint32() == PEER
        value: Any = None
        if name == "data":
            value = packet.get_string()
        elif name == "adjust":
            value = packet.get_uint32()
        packet.check_end()
        self.sent.append((name, value))

    def send_channel_open_confirmation(self, *arguments: int) -> None:
        self.sent.append(("confirmation", arguments))

    def send_channel_open_failure(self, *arguments: Any) -> None:
        self.sent.append(("refusal", arguments))

    def take(self) -> list[tuple[str, Any]]:
        sent, self.sent = self.sent, []
        return sent

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.take()]


class Desk:
    """A channel, its protocol, and what the peer may say."""

    def __init__(self, **options: Any) -> None:
        self.paper = Paper()
        self.app = Recorder()
        self.channel = Channel(self.paper, self.app, **options)

    async def opening(self) -> asyncio.Task[None]:
        """Ask for a channel, of which nothing is heard yet."""
        connecting = asyncio.create_task(self.channel.connect("host.example", 80))
        await self.settle()
        return connecting

    async def given_up(self) -> "Desk":
        connecting = await self.opening()
        connecting.cancel()
        await self.settle()
        return self

    async def open(self, window: int = 1 << 20, packet: int = 32768) -> "Desk":
        connecting = await self.opening()
        assert self.paper.names == ["open"]
        self.confirm(window, packet)
        await connecting
        return self

    def confirm(self, window: int = 1 << 20, packet: int = 32768) -> None:
        self.channel.process_open_confirmation(PEER, window, packet, SSHPacket(b""))

    def hear(self, pkttype: int, *args: bytes) -> None:
        assert self.paper.is_registered, "asyncssh would find no such channel"
        assert self.channel.process_packet(pkttype, 0, SSHPacket(b"".join(args)))

    def hear_data(self, data: bytes) -> None:
        self.hear(ssh.MSG_CHANNEL_DATA, String(data))

    async def told(self) -> list[str]:
        """Return what the application has been told, as soon as nothing is under way any more."""
        await self.settle()
        return self.app.facts

    async def read_to_the_end(self) -> bytes:
        """Have the application read again; returns all that it got before the end."""
        self.channel.resume_reading()
        assert await self.told() == ["made", "eof", "lost"]
        assert self.app.error is None
        return bytes(self.app.received)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@played
async def test_confirmed_begins() -> None:
    desk = await Desk().open()
    assert desk.app.facts == ["made"]


@played
async def test_refused_raises_what_the_peer_said() -> None:
    desk = Desk()
    connecting = await desk.opening()
    desk.channel.process_open_failure(ssh.OPEN_CONNECT_FAILED, "Connection refused", "")
    with pytest.raises(ChannelOpenError) as refused:
        await connecting
    assert (refused.value.code, refused.value.reason) == (2, "Connection refused")
    assert desk.app.facts == []
    assert not desk.paper.is_registered


@played
async def test_given_up_then_confirmed_is_closed_at_once() -> None:
    desk = await Desk().given_up()
    desk.confirm()
    assert desk.paper.names == ["open", "close"]
    desk.hear_data(b"x")
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    assert await desk.told() == []
    assert not desk.paper.is_registered


@played
async def test_given_up_then_refused_is_forgotten() -> None:
    desk = await Desk().given_up()
    desk.channel.process_open_failure(ssh.OPEN_CONNECT_FAILED, "Connection refused", "")
    assert not desk.paper.is_registered


@played
async def test_write_is_cut_into_packets_the_peer_takes() -> None:
    desk = await Desk().open(packet=4)
    desk.channel.write(b"abcdefghij")
    assert desk.paper.take() == [("data", b"abcd"), ("data", b"efgh"), ("data", b"ij")]


@pytest.mark.parametrize("packet", [0, 1])
@played
async def test_peer_of_tiny_packets_gets_them_in_turns(packet: int) -> None:
    desk = await Desk().open(packet=packet)
    desk.channel.write(bytes(PACKETS_PER_TURN))
    desk.channel.write(bytes(PACKETS_PER_TURN * 2))
    desk.channel.write_eof()
    assert len(desk.paper.take()) == PACKETS_PER_TURN * 2
    await asyncio.sleep(0)
    assert desk.paper.names == ["data"] * PACKETS_PER_TURN + ["eof"]
    await desk.settle()
    assert desk.paper.names == []


@played
async def test_closed_between_turns_sends_nothing_more() -> None:
    desk = await Desk().open(packet=1)
    desk.channel.write(bytes(PACKETS_PER_TURN + 1))
    desk.channel.write_eof()
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    desk.paper.take()
    await desk.settle()
    assert desk.paper.names == []


@played
async def test_write_beyond_the_window_waits_for_an_adjustment() -> None:
    desk = await Desk().open(window=4)
    desk.channel.write(b"abcdef")
    desk.channel.write_eof()
    assert desk.paper.take() == [("data", b"abcd")]
    assert desk.channel.get_write_buffer_size() == 2
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(1))
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(9))
    assert desk.paper.take() == [("data", b"e"), ("data", b"f"), ("eof", None)]


@played
async def test_close_with_data_waiting_sends_it_and_eof_first() -> None:
    desk = await Desk().open(window=0)
    desk.channel.write(b"rest")
    desk.channel.close()
    assert desk.paper.take() == []
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(100))
    assert desk.paper.take() == [("data", b"rest"), ("eof", None), ("close", None)]
    assert await desk.told() == ["made", "lost"]
    assert desk.app.error is None
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    assert not desk.paper.is_registered


@played
async def test_abort_sends_close_without_eof_and_drops_the_rest() -> None:
    desk = await Desk().open(window=0)
    desk.channel.write(b"rest")
    desk.channel.abort()
    assert desk.paper.names == ["close"]
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(100))
    desk.hear_data(b"too late")
    desk.hear(ssh.MSG_CHANNEL_EOF)
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    await desk.settle()
    assert desk.paper.names == []
    assert desk.app.facts == ["made", "lost"]
    assert desk.app.received == b""


@played
async def test_eof_and_close_behind_unread_data_are_an_end() -> None:
    """What asyncssh's own channel forgets."""
    desk = await Desk().open()
    desk.channel.pause_reading()
    desk.hear_data(b"unread")
    desk.hear(ssh.MSG_CHANNEL_EOF)
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    assert desk.paper.names == ["close"]
    assert not desk.paper.is_registered
    assert await desk.told() == ["made"]
    assert await desk.read_to_the_end() == b"unread"


@played
async def test_close_without_eof_is_a_reset() -> None:
    desk = await Desk().open()
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    assert await desk.told() == ["made", "lost"]
    assert isinstance(desk.app.error, ConnectionResetError)


@played
async def test_close_without_eof_of_a_foreign_server_is_an_end() -> None:
    desk = await Desk(is_close_reset=False).open()
    desk.channel.pause_reading()
    desk.hear_data(b"all of it")
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    assert await desk.read_to_the_end() == b"all of it"


@played
async def test_connection_lost_is_a_reset() -> None:
    desk = await Desk().open()
    desk.channel.process_connection_close(None)
    await desk.settle()
    assert isinstance(desk.app.error, ConnectionResetError)
    desk.channel.write(b"to nobody")
    assert desk.paper.names == []


@played
async def test_connection_lost_while_opening_raises() -> None:
    desk = Desk()
    connecting = await desk.opening()
    desk.channel.process_connection_close(None)
    with pytest.raises(ChannelOpenError):
        await connecting
    assert desk.app.facts == []


@played
async def test_backlog_pauses_the_writer_until_it_is_small() -> None:
    desk = await Desk().open(window=0)
    desk.channel.write(bytes(HIGH_BYTES))
    assert desk.app.facts == ["made"]
    desk.channel.write(b"x")
    assert desk.app.facts == ["made", "pause"]
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(HIGH_BYTES // 2))
    assert desk.app.facts == ["made", "pause"]
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(HIGH_BYTES))
    assert desk.app.facts == ["made", "pause", "resume"]


@played
async def test_full_stream_pauses_the_writer_after_one_write() -> None:
    desk = await Desk().open()
    desk.paper.pressure.on_stream(is_full=True)
    desk.channel.write(b"x")
    assert desk.app.facts == ["made", "pause"]
    desk.paper.pressure.on_stream(is_full=False)
    assert await desk.told() == ["made", "pause", "resume"]


@played
async def test_full_stream_and_full_window_must_both_end() -> None:
    desk = await Desk().open(window=0)
    desk.channel.write(bytes(HIGH_BYTES + 1))
    desk.paper.pressure.on_stream(is_full=True)
    desk.hear(ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(1 << 20))
    assert desk.app.facts == ["made", "pause"]
    desk.paper.pressure.on_stream(is_full=False)
    assert await desk.told() == ["made", "pause", "resume"]


@played
async def test_closed_while_in_line_is_left_alone() -> None:
    desk = await Desk().open()
    desk.paper.pressure.on_stream(is_full=True)
    desk.channel.write(b"x")
    desk.hear(ssh.MSG_CHANNEL_CLOSE)
    desk.paper.pressure.on_stream(is_full=False)
    assert await desk.told() == ["made", "pause", "lost"]


@played
async def test_consumed_data_is_credited_paused_data_is_not() -> None:
    desk = await Desk().open()
    desk.channel.pause_reading()
    for _ in range(INITIAL_BYTES // MAX_PACKET_BYTES):
        desk.hear_data(bytes(MAX_PACKET_BYTES))
    assert desk.paper.names == []
    with pytest.raises(ProtocolError):
        desk.hear_data(b"x")
    desk.channel.resume_reading()
    await desk.settle()
    adjustments = [INITIAL_BYTES // 2, INITIAL_BYTES // 2 + INITIAL_BYTES]
    assert desk.paper.take() == [("adjust", each) for each in adjustments]


@pytest.mark.parametrize(
    "messages",
    [
        [(ssh.MSG_CHANNEL_EOF,), (ssh.MSG_CHANNEL_DATA, String(b"x"))],
        [(ssh.MSG_CHANNEL_EOF,), (ssh.MSG_CHANNEL_EOF,)],
        [(ssh.MSG_CHANNEL_EXTENDED_DATA, UInt32(1), String(b"x"))],
        [(ssh.MSG_CHANNEL_OPEN,)],
    ],
)
@played
async def test_offence_ends_the_connection(messages: list[Any]) -> None:
    desk = await Desk().open()
    for message in messages[:-1]:
        desk.hear(*message)
    with pytest.raises(ProtocolError):
        desk.hear(*messages[-1])


@pytest.mark.parametrize(
    "message",
    [
        (ssh.MSG_CHANNEL_DATA, String(b"x")),
        (ssh.MSG_CHANNEL_WINDOW_ADJUST, UInt32(1)),
        (ssh.MSG_CHANNEL_EOF,),
        (ssh.MSG_CHANNEL_CLOSE,),
    ],
)
@played
async def test_message_with_more_than_its_fields_is_not_decoded(message: tuple[Any, ...]) -> None:
    desk = await Desk().open()
    with pytest.raises(PacketDecodeError):
        desk.hear(*message, b"more")


@played
async def test_message_before_confirmation_is_an_offence() -> None:
    with pytest.raises(ProtocolError):
        Desk().hear_data(b"x")


@played
async def test_keepalive_of_sshd_is_answered() -> None:
    desk = await Desk().open()
    desk.hear(ssh.MSG_CHANNEL_REQUEST, String(b"keepalive@openssh.com"), Boolean(True))
    assert desk.paper.names == ["failure"]
    desk.hear(ssh.MSG_CHANNEL_REQUEST, String(b"eow@openssh.com"), Boolean(False))
    assert desk.paper.names == []


@played
async def test_asked_to_open_confirms_only_when_the_protocol_is_there() -> None:
    desk = Desk()
    app = Recorder()
    connected = asyncio.get_running_loop().create_future()
    desk.channel.process_open(PEER, 1000, 100, connected)
    await desk.settle()
    assert desk.paper.names == []
    connected.set_result(app)
    await desk.settle()
    assert desk.paper.take() == [("confirmation", (PEER, NUMBER, INITIAL_BYTES, MAX_PACKET_BYTES))]
    desk.hear_data(b"hello")
    assert app.received == b"hello"


@played
async def test_asked_to_open_refuses_with_the_reason() -> None:
    async def refuse() -> Any:
        raise ChannelOpenError(ssh.OPEN_CONNECT_FAILED, "ECONNREFUSED: connection refused")

    desk = Desk()
    desk.channel.process_open(PEER, 1000, 100, refuse())
    await desk.settle()
    refusal = (PEER, ssh.OPEN_CONNECT_FAILED, "ECONNREFUSED: connection refused", "en-US")
    assert desk.paper.take() == [("refusal", refusal)]
    assert not desk.paper.is_registered


@played
async def test_asked_to_open_with_a_bug_refuses_and_reports_it() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail() -> Any:
        raise ZeroDivisionError

    desk = Desk()
    desk.channel.process_open(PEER, 1000, 100, fail())
    await desk.settle()
    ((name, arguments),) = desk.paper.take()
    assert (name, arguments[1]) == ("refusal", ssh.OPEN_RESOURCE_SHORTAGE)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


@pytest.mark.parametrize("end", ["connection", "abort"])
@played
async def test_ended_while_answering_stops_the_dialing(end: str) -> None:
    desk = Desk()
    dialing = asyncio.get_running_loop().create_future()
    desk.channel.process_open(PEER, 1000, 100, dialing)
    await desk.settle()
    if end == "abort":
        desk.channel.abort()
    desk.channel.process_connection_close(None)
    await desk.settle()
    assert dialing.cancelled()
    assert desk.paper.names == []
