"""What a running tunnel answers, to whom, and what it does not put up with."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import cast

import pytest
from descriptors import none_left
from fakes import DNS, FLOW, RUN, STATUS, Client, Connect, OfRun, Tunnel, Up, play, until

from shim.protocol.common import Hello
from shim.protocol.handover import adopt
from shim.protocol.link import LinkClosedError, Message
from shim.protocol.monitor import MAX_PAUSE_S
from shim.protocol.tap import TAP
from vpn.control import messages, peer, server
from vpn.control.instance import Instance
from vpn.control.messages import (
    VERSION,
    CapturePackets,
    Capturing,
    DestinationAnswer,
    DestinationStatus,
    DnsStatusAnswer,
    Done,
    FlowPage,
    GetDestination,
    GetDnsStatus,
    GetNamespaces,
    GetResolution,
    GetRun,
    GetStatus,
    KillFlow,
    ListFlows,
    Namespaces,
    PauseFor,
    Refusal,
    Refused,
    Request,
    Resolution,
    ResolutionAnswer,
    RunAnswer,
    StateChanged,
    StatusAnswer,
    Subscribe,
    TakeDown,
    Warned,
)
from vpn.control.server import ControlServer, flow_pages

LONG_NAME = "\\000" * 253


async def has_hung_up(client: Client) -> bool:
    with pytest.raises(LinkClosedError):
        await client.receive()
    return True


def answers(directory: Path, instance: type[Instance], *asked: Message) -> list[Message]:
    """Return the first answer to each of these requests, each on a connection of its own."""
    found: list[Message] = []

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        for request in asked:
            client = connect()
            found.append(await client.ask(request))

    play(directory, lambda: up() if instance is Up else instance(), dialogue)
    return found


def up() -> Up:
    return Up(Tunnel())


# Requests.


def test_every_request_has_a_handler() -> None:
    assert set(server._HANDLERS) == set(Request.__args__)
    assert set(server._HANDLERS) > server._LASTING


def test_up_answers_each_request_of_its_kind(tmp_path: Path) -> None:
    expected: dict[Message, Message] = {
        GetStatus(): StatusAnswer(STATUS),
        PauseFor(60): Done(),
        KillFlow("t1"): Done(),
        KillFlow("t2"): Refused(Refusal.NO_FLOW),
        KillFlow(""): Refused(Refusal.NO_FLOW),
        GetDnsStatus(): DnsStatusAnswer(DNS),
        GetResolution("www.example", 257): ResolutionAnswer(Resolution(way="far", age_s=257)),
        GetResolution("other", 1): Refused(Refusal.MALFORMED, "not a name"),
        GetDestination("2001:db8::1", 443): DestinationAnswer(
            DestinationStatus(name="2001:db8::1", rule_number=443)
        ),
        GetDestination(LONG_NAME, 0): DestinationAnswer(DestinationStatus(name=LONG_NAME)),
        GetDestination("a b", 1): Refused(Refusal.MALFORMED, "neither a name nor an address"),
        PauseFor(-1): Refused(Refusal.MALFORMED, "a pause cannot be shorter than nothing"),
        PauseFor(13): Refused(Refusal.FAILED, "the monitor does not pause"),
        GetRun(): Refused(Refusal.NOT_OFFERED),
        GetNamespaces(): Refused(Refusal.NOT_OFFERED),
    }
    assert answers(tmp_path, Up, *expected) == [*expected.values()]


def test_run_refuses_what_is_for_up(tmp_path: Path) -> None:
    asked = (GetStatus(), TakeDown(), PauseFor(1), GetRun(), GetNamespaces())
    *refused, run, _ = answers(tmp_path, OfRun, *asked)
    assert refused == [Refused(Refusal.NOT_OFFERED)] * 3
    assert run == RunAnswer(RUN)


def test_before_the_tunnel_is_up_there_are_no_flows_and_nothing_is_explained(
    tmp_path: Path,
) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        assert await connect().ask(ListFlows()) == FlowPage((), is_last=True)
        assert await connect().ask(KillFlow("t1")) == Refused(Refusal.NO_FLOW)
        for request in (GetDnsStatus(), GetResolution("www.example", 1), CapturePackets()):
            assert await connect().ask(request) == Refused(Refusal.NOT_UP)

    play(tmp_path, Up, dialogue)


def test_nothing_is_explained_while_the_tunnel_is_set_up(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        assert isinstance(instance.tunnel, Tunnel)
        instance.tunnel.explainer = None
        assert await connect().ask(GetDnsStatus()) == Refused(Refusal.NOT_UP)

    play(tmp_path, up, dialogue)


def test_connection_ends_after_the_answer(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        assert await client.ask(GetStatus()) == StatusAnswer(STATUS)
        assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
def test_flows_come_in_pages_of_which_the_last_one_says_so(count: int) -> None:
    pages = flow_pages([FLOW] * count)
    assert [flow for page in pages for flow in page.flows] == [FLOW] * count
    assert [page.is_last for page in pages] == [*[False] * (len(pages) - 1), True]
    assert all(len(page.flows) <= messages.FLOWS_PER_PAGE for page in pages)
    assert all(len(page.flows) > 0 for page in pages) == bool(count)


def test_pause_is_no_longer_than_the_monitor_allows(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        for seconds in (0, MAX_PAUSE_S + 1):
            assert await connect().ask(PauseFor(seconds)) == Done()
        assert cast(Up, instance).paused == [0, MAX_PAUSE_S]

    play(tmp_path, up, dialogue)


def test_down_is_answered_once_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        up = cast(Up, instance)
        up.may_be_down.clear()
        client = connect()
        answer = asyncio.create_task(client.ask(TakeDown()))
        await asyncio.sleep(0.2)  # longer than a request that does not last may take
        assert not answer.done()
        up.may_be_down.set()
        assert await answer == Done()
        assert up.is_down.is_set()

    play(tmp_path, up, dialogue)


def test_answers_that_are_under_way_go_out_before_the_end(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        up = cast(Up, instance)
        up.may_be_down.clear()
        client = connect()
        client.send(Hello(VERSION), TakeDown())
        assert await client.receive() == Hello(VERSION)
        await asyncio.sleep(0.05)
        finishing = asyncio.create_task(control.finish())
        await asyncio.sleep(0.05)
        assert not finishing.done()
        up.may_be_down.set()
        await finishing
        assert await client.receive() == Done()

    play(tmp_path, up, dialogue)


def test_namespaces_come_as_descriptors(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        client.send(Hello(VERSION), GetNamespaces())
        await client.receive()
        message, fds = await client.receive_all()
        assert message == Namespaces()
        inodes = {os.fstat(fd).st_ino for fd in (*fds, reading)}
        assert len(inodes) == 1
        assert len(set(fds)) == 3
        for fd in fds:
            os.close(fd)

    play(tmp_path, lambda: OfRun(reading), dialogue)
    os.close(reading)
    os.close(writing)


# Who may ask, and how.


@pytest.mark.parametrize(("uid", "may"), [(0, True), (os.geteuid(), True), (4242, False)])
def test_only_root_and_the_user_may_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, may: bool
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: uid)
    for request in (GetStatus(), TakeDown(), Subscribe(), CapturePackets()):
        directory = tmp_path / type(request).__name__
        directory.mkdir()
        (answer,) = answers(directory, Up, request)
        assert (answer != Refused(Refusal.NOT_PERMITTED)) == may


def test_another_user_is_refused_before_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: 4242)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        assert await client.receive() == Hello(VERSION)
        assert await client.receive() == Refused(Refusal.NOT_PERMITTED)
        assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


def test_client_of_another_version_is_told_the_version_and_may_take_it_down(
    tmp_path: Path,
) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        client.send(Hello(VERSION + 1), GetStatus())
        assert await client.receive() == Hello(VERSION)
        assert await has_hung_up(client)
        client = connect()
        client.send(Hello(VERSION + 1), TakeDown())
        assert await client.receive() == Hello(VERSION)
        assert await client.receive() == Done()

    play(tmp_path, up, dialogue)


def test_encodings_that_never_change(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        client.sock.send(b"\x92\xa5hello\x01")
        client.sock.send(b"\x91\xa9take-down")
        assert await client.receive() == Hello(VERSION)
        assert await client.receive() == Done()

    play(tmp_path, up, dialogue)


@pytest.mark.parametrize(
    "packets",
    [
        [b"status"],
        [b"\xc1"],
        [b"\x92\xa5hello\x01", b"flows"],
        [b"\x92\xa5hello\x01", b"\x92\xa5hello\x01"],
        [b"\x91\xaaget-status", b"\x91\xaaget-status"],
        [b"\x92\xa5hello\x01", b"\x92\xaaget-status\x01"],
        [b"\x92\xa5hello\x01", b"\x92\xa9kill-flow\xda\x04\x00" + b"t" * 1024],
        [b"\x92\xa5hello\x01", b"x" * 70_000],
    ],
)
def test_what_breaks_a_rule_ends_the_connection_and_no_other(
    tmp_path: Path, packets: list[bytes]
) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        for packet in packets:
            client.sock.send(packet)
        assert await client.receive() == Hello(VERSION)
        assert await has_hung_up(client)
        assert await connect().ask(GetStatus()) == StatusAnswer(STATUS)

    play(tmp_path, up, dialogue)


def test_descriptors_of_a_client_are_a_violation(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        socket.send_fds(client.sock, [b"\x92\xa5hello\x01"], [0])
        assert await client.receive() == Hello(VERSION)
        assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


# One client does not stop another.


def test_client_that_says_nothing_stops_no_other_and_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.2)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        silent = [connect() for _ in range(20)]
        assert await connect().ask(GetStatus()) == StatusAnswer(STATUS)
        for client in silent:
            assert await client.receive() == Hello(VERSION)
            assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


def test_client_that_does_not_read_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.2)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        client.send(Hello(VERSION), ListFlows())
        await asyncio.sleep(0.4)
        assert await connect().ask(GetStatus()) == StatusAnswer(STATUS)
        with pytest.raises(LinkClosedError):
            await client.receive_until(lambda page: isinstance(page, FlowPage) and page.is_last)

    play(tmp_path, lambda: Up(Tunnel(40_000)), dialogue)


def test_answer_that_takes_too_long_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        client.send(Hello(VERSION), GetDestination("silent.example", 1))
        assert await client.receive() == Hello(VERSION)
        assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


def test_client_that_connects_while_no_descriptor_is_left_is_answered_later(
    tmp_path: Path,
) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        with none_left():
            await asyncio.sleep(0.05)
        assert await client.ask(GetStatus()) == StatusAnswer(STATUS)

    play(tmp_path, up, dialogue)


# Captures.


def test_capture_lasts_as_long_as_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        assert isinstance(instance.tunnel, Tunnel)
        tap = instance.tunnel.captures
        first = connect()
        first.send(Hello(VERSION), CapturePackets())
        await first.receive()
        message, (fd,) = await first.receive_all()
        assert message == Capturing()
        reader = adopt(fd, TAP)
        await asyncio.sleep(0.1)
        assert await connect().ask(CapturePackets()) == Refused(Refusal.BUSY)
        assert tap.gate_end is not None
        first.link.close()
        await tap.wait()
        with pytest.raises(LinkClosedError):
            reader.receive()
        reader.close()
        again = connect()
        assert await again.ask(CapturePackets()) == Capturing()
        tap.end()
        assert await has_hung_up(again)

    play(tmp_path, up, dialogue)


# Events.


def test_subscriber_is_told_the_state_and_then_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        assert await client.ask(Subscribe()) == StateChanged("connected")
        await asyncio.sleep(0.1)
        happens = [StateChanged("reconnecting", "it fell silent"), Warned("no Landlock")]
        for event in happens:
            instance.events.publish(event)
        assert [await client.receive() for _ in happens] == happens
        other = connect()
        assert await other.ask(Subscribe()) == happens[0]
        client.link.close()
        await until(lambda: len(instance.events._subscriptions) == 1)
        instance.events.publish(Warned("more"))
        assert await other.receive() == Warned("more")

    play(tmp_path, up, dialogue)


def test_subscription_ends_with_the_server(tmp_path: Path) -> None:
    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        client = connect()
        assert await client.ask(Subscribe()) == StateChanged("connected")
        instance.events.publish(StateChanged("closing"))
        await asyncio.wait_for(control.finish(), 0.5)
        assert await client.receive() == StateChanged("closing")
        assert await has_hung_up(client)

    play(tmp_path, up, dialogue)


def test_subscriber_that_does_not_read_stops_nobody_and_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.1)

    async def dialogue(connect: Connect, instance: Instance, control: ControlServer) -> None:
        stalled = connect()
        assert await stalled.ask(Subscribe()) == StateChanged("connected")
        for _ in range(100):
            for _ in range(50):
                instance.events.publish(Warned("x" * 4000))
            await asyncio.sleep(0)
        assert await connect().ask(GetStatus()) == StatusAnswer(STATUS)
        await until(lambda: not instance.events._subscriptions)

    play(tmp_path, up, dialogue)
