"""What a running tunnel answers, to whom, and what it does not put up with."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial

import pytest
from descriptors import none_left
from dialogues import dialogue, until
from fakes import DNS, RUN, STATUS, Bench, Client, OfRun, Tunnel, Up
from flow_sample import FLOW

from shim.protocol.common import Hello
from shim.protocol.handover import adopt
from shim.protocol.link import LinkClosedError, Message
from shim.protocol.monitor import MAX_PAUSE_S
from shim.protocol.tap import TAP
from vpn.control import messages, peer, server
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
from vpn.control.server import flow_pages

Timeout = Callable[[float], None]

LONG_NAME = "\\000" * 253


async def has_hung_up(client: Client) -> bool:
    with pytest.raises(LinkClosedError):
        await client.receive()
    return True


async def is_turned_away(client: Client) -> bool:
    """Whether a client hears the greeting, and then the end."""
    assert await client.receive() == Hello(VERSION)
    return await has_hung_up(client)


@pytest.fixture
def timeout(monkeypatch: pytest.MonkeyPatch) -> Timeout:
    """Sets for how long a message may take."""
    return partial(monkeypatch.setattr, messages, "TIMEOUT_S")


played = dialogue(partial(Bench, lambda: Up(Tunnel())))
played_before_it_is_up = dialogue(partial(Bench, Up))
played_by_a_run = dialogue(partial(Bench, OfRun))
played_with_many_flows = dialogue(partial(Bench, lambda: Up(Tunnel(40_000))))


# Requests.


def test_every_request_has_a_handler() -> None:
    assert set(server._HANDLERS) == set(Request.__args__)
    assert set(server._HANDLERS) > server._LASTING


@played
async def test_up_answers_each_request_of_its_kind(bench: Bench) -> None:
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
    assert [await bench.ask(one) for one in expected] == [*expected.values()]


@played_by_a_run
async def test_run_refuses_what_is_for_up(bench: Bench) -> None:
    for request in (GetStatus(), TakeDown(), PauseFor(1)):
        assert await bench.ask(request) == Refused(Refusal.NOT_OFFERED)
    assert await bench.ask(GetRun()) == RunAnswer(RUN)
    assert await bench.ask(ListFlows()) == FlowPage((FLOW,) * 16, is_last=False)


@played_before_it_is_up
async def test_before_the_tunnel_is_up_there_are_no_flows_and_nothing_is_explained(
    bench: Bench,
) -> None:
    assert await bench.ask(ListFlows()) == FlowPage((), is_last=True)
    assert await bench.ask(KillFlow("t1")) == Refused(Refusal.NO_FLOW)
    for request in (GetDnsStatus(), GetResolution("www.example", 1), CapturePackets()):
        assert await bench.ask(request) == Refused(Refusal.NOT_UP)


@played
async def test_nothing_is_explained_while_the_tunnel_is_set_up(bench: Bench) -> None:
    bench.tunnel.explainer = None
    assert await bench.ask(GetDnsStatus()) == Refused(Refusal.NOT_UP)


@played
async def test_connection_ends_after_the_answer(bench: Bench) -> None:
    client = bench.connect()
    assert await client.ask(GetStatus()) == StatusAnswer(STATUS)
    assert await has_hung_up(client)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
def test_flows_come_in_pages_of_which_the_last_one_says_so(count: int) -> None:
    pages = flow_pages([FLOW] * count)
    assert [flow for page in pages for flow in page.flows] == [FLOW] * count
    assert [page.is_last for page in pages] == [*[False] * (len(pages) - 1), True]
    assert all(len(page.flows) <= messages.FLOWS_PER_PAGE for page in pages)
    assert all(len(page.flows) > 0 for page in pages) == bool(count)


@played
async def test_pause_is_no_longer_than_the_monitor_allows(bench: Bench) -> None:
    for seconds in (0, MAX_PAUSE_S + 1):
        assert await bench.ask(PauseFor(seconds)) == Done()
    assert bench.up.paused == [0, MAX_PAUSE_S]


@played
async def test_down_is_answered_once_it_is_done(bench: Bench, timeout: Timeout) -> None:
    timeout(0.05)
    bench.up.may_be_down.clear()
    client = bench.connect()
    answer = asyncio.create_task(client.ask(TakeDown()))
    await asyncio.sleep(0.2)  # longer than a request that does not last may take
    assert not answer.done()
    bench.up.may_be_down.set()
    assert await answer == Done()
    assert bench.up.is_down.is_set()


@played
async def test_answers_that_are_under_way_go_out_before_the_end(bench: Bench) -> None:
    bench.up.may_be_down.clear()
    client = bench.connect()
    client.send(Hello(VERSION), TakeDown())
    assert await client.receive() == Hello(VERSION)
    await asyncio.sleep(0.05)
    finishing = asyncio.create_task(bench.control.finish())
    await asyncio.sleep(0.05)
    assert not finishing.done()
    bench.up.may_be_down.set()
    await finishing
    assert await client.receive() == Done()


@played_by_a_run
async def test_namespaces_come_as_descriptors(bench: Bench) -> None:
    client = bench.connect()
    client.send(Hello(VERSION), GetNamespaces())
    await client.receive()
    message, fds = await client.receive_all()
    assert message == Namespaces()
    inodes = {os.fstat(fd).st_ino for fd in (*fds, 0)}
    assert len(inodes) == 1
    assert len(set(fds)) == 3
    for fd in fds:
        os.close(fd)


# Who may ask, and how.


@pytest.mark.parametrize(("uid", "may"), [(0, True), (os.geteuid(), True), (4242, False)])
@played_before_it_is_up
async def test_only_root_and_the_user_may_ask(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, uid: int, may: bool
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: uid)
    for request in (GetStatus(), TakeDown(), Subscribe(), CapturePackets()):
        assert (await bench.ask(request) != Refused(Refusal.NOT_PERMITTED)) == may


@played
async def test_another_user_is_refused_before_a_word(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: 4242)
    client = bench.connect()
    assert await client.receive() == Hello(VERSION)
    assert await client.receive() == Refused(Refusal.NOT_PERMITTED)
    assert await has_hung_up(client)


@played
async def test_client_of_another_version_is_turned_away(bench: Bench) -> None:
    client = bench.connect()
    client.send(Hello(VERSION + 1), GetStatus())
    assert await is_turned_away(client)


@played
async def test_client_of_another_version_may_take_it_down(bench: Bench) -> None:
    client = bench.connect()
    client.send(Hello(VERSION + 1), TakeDown())
    assert await client.receive() == Hello(VERSION)
    assert await client.receive() == Done()


@played
async def test_encodings_that_never_change(bench: Bench) -> None:
    client = bench.connect()
    client.sock.send(b"\x92\xa5hello\x01")
    client.sock.send(b"\x91\xa9take-down")
    assert await client.receive() == Hello(VERSION)
    assert await client.receive() == Done()


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
@played
async def test_what_breaks_a_rule_ends_the_connection_and_no_other(
    bench: Bench, packets: list[bytes]
) -> None:
    client = bench.connect()
    for packet in packets:
        client.sock.send(packet)
    assert await is_turned_away(client)
    assert await bench.ask(GetStatus()) == StatusAnswer(STATUS)


@played
async def test_descriptors_of_a_client_are_a_violation(bench: Bench) -> None:
    client = bench.connect()
    socket.send_fds(client.sock, [b"\x92\xa5hello\x01"], [0])
    assert await is_turned_away(client)


# One client does not stop another.


@played
async def test_client_that_says_nothing_stops_no_other_and_is_hung_up_on(
    bench: Bench, timeout: Timeout
) -> None:
    timeout(0.2)
    silent = [bench.connect() for _ in range(20)]
    assert await bench.ask(GetStatus()) == StatusAnswer(STATUS)
    for client in silent:
        assert await is_turned_away(client)


@played_with_many_flows
async def test_client_that_does_not_read_is_hung_up_on(bench: Bench, timeout: Timeout) -> None:
    timeout(0.2)
    client = bench.connect()
    client.send(Hello(VERSION), ListFlows())
    await asyncio.sleep(0.4)
    assert await bench.ask(GetStatus()) == StatusAnswer(STATUS)
    with pytest.raises(LinkClosedError):
        await client.receive_until(lambda page: isinstance(page, FlowPage) and page.is_last)


@played
async def test_answer_that_takes_too_long_is_none(bench: Bench, timeout: Timeout) -> None:
    timeout(0.05)
    client = bench.connect()
    client.send(Hello(VERSION), GetDestination("silent.example", 1))
    assert await is_turned_away(client)


@played
async def test_client_that_connects_while_no_descriptor_is_left_is_answered_later(
    bench: Bench,
) -> None:
    client = bench.connect()
    with none_left():
        await asyncio.sleep(0.05)
    assert await client.ask(GetStatus()) == StatusAnswer(STATUS)


# Captures.


@played
async def test_capture_lasts_as_long_as_the_connection(bench: Bench, timeout: Timeout) -> None:
    timeout(0.05)
    tap = bench.tunnel.captures
    first = bench.connect()
    first.send(Hello(VERSION), CapturePackets())
    await first.receive()
    message, (fd,) = await first.receive_all()
    assert message == Capturing()
    reader = adopt(fd, TAP)
    await asyncio.sleep(0.1)
    assert await bench.ask(CapturePackets()) == Refused(Refusal.BUSY)
    assert tap.is_active
    first.link.close()
    await tap.wait()
    with pytest.raises(LinkClosedError):
        reader.receive()
    reader.close()
    again = bench.connect()
    assert await again.ask(CapturePackets()) == Capturing()
    tap.end()
    assert await has_hung_up(again)


# Events.


@played
async def test_subscriber_is_told_the_state_and_then_what_happens(
    bench: Bench, timeout: Timeout
) -> None:
    timeout(0.05)
    client = await bench.subscriber()
    await asyncio.sleep(0.1)
    happens = [StateChanged("reconnecting", "it fell silent"), Warned("no Landlock")]
    for event in happens:
        bench.instance.events.publish(event)
    assert [await client.receive() for _ in happens] == happens
    other = bench.connect()
    assert await other.ask(Subscribe()) == happens[0]
    client.link.close()
    await until(lambda: len(bench.instance.events._subscriptions) == 1)
    bench.instance.events.publish(Warned("more"))
    assert await other.receive() == Warned("more")


@played
async def test_subscription_ends_with_the_server(bench: Bench) -> None:
    client = await bench.subscriber()
    bench.instance.events.publish(StateChanged("closing"))
    await asyncio.wait_for(bench.control.finish(), 0.5)
    assert await client.receive() == StateChanged("closing")
    assert await has_hung_up(client)


@played
async def test_subscriber_that_does_not_read_stops_nobody_and_is_hung_up_on(
    bench: Bench, timeout: Timeout
) -> None:
    timeout(0.1)
    await bench.subscriber()
    for _ in range(100):
        for _ in range(50):
            bench.instance.events.publish(Warned("x" * 4000))
        await asyncio.sleep(0)
    assert await bench.ask(GetStatus()) == StatusAnswer(STATUS)
    await until(lambda: not bench.instance.events._subscriptions)
