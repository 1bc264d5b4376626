"""What the command line learns from a running tunnel, and from one that does not keep the rules."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import DNS, STATUS, Tunnel, Up, listener_at, saying, serving
from flow_sample import FLOW

from shim.protocol import paths
from shim.protocol.common import Hello
from shim.protocol.link import LinkClosedError, Message
from vpn.control import client as control
from vpn.control import messages, peer
from vpn.control.messages import (
    BLOCKED,
    DOWN,
    VERSION,
    Capturing,
    DestinationAnswer,
    DestinationStatus,
    Done,
    FlowPage,
    Refusal,
    Refused,
    Resolution,
    StateChanged,
)
from vpn.errors import Exit, NotPermittedError, OverlayError, VersionError

Verb = Callable[[], Any]
LISTENS = [
    partial(control.list_flows, None),
    partial(control.kill_flow, None, "t1"),
    partial(control.capture, None),
    partial(control.dns_status, None),
    partial(control.resolution_of, None, "www.example", 1),
    partial(control.destination_of, None, "www.example", 1),
]
"""Verbs for any tunnel."""
VERBS = [*LISTENS, control.query, partial(control.pause, 60)]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the socket of a tunnel of this network namespace."""
    monkeypatch.setattr(paths, "RUN_DIRECTORY", str(tmp_path))
    Path(paths.state_directory()).mkdir()
    return f"{paths.state_directory()}/{paths.CONTROL}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.05)


@pytest.fixture
def silent(path: str, impatient: None) -> Iterator[None]:
    """A client to which one can connect, and which says nothing."""
    with listener_at(path):
        yield


def up() -> Up:
    return Up(Tunnel())


def packets(*answers: Message) -> list[bytes]:
    return [msgspec.msgpack.encode(one) for one in (Hello(VERSION), *answers)]


# A tunnel that answers.


def test_answers_are_those_that_were_given(path: str) -> None:
    with serving(path, up):
        assert control.is_there()
        assert control.query() == STATUS
        assert control.list_flows(None) == [FLOW] * 40
        assert control.dns_status(None) == DNS
        assert control.resolution_of(None, "www.example", 257) == Resolution(way="far", age_s=257)
        found = control.destination_of(None, "2001:db8::1", 443)
        assert found == DestinationStatus(name="2001:db8::1", rule_number=443)
        assert control.pause(60)
        control.kill_flow(None, "t1")


@pytest.mark.parametrize("flow", ["t2", "", "no such", "\udcff", "t" * 32, "\U0001f600" * 32])
def test_flow_that_is_not_there_is_named(path: str, flow: str) -> None:
    with serving(path, up), pytest.raises(OverlayError) as raised:
        control.kill_flow(None, flow)
    assert str(raised.value) == f"there is no flow {flow!r}; see 'overlay-vpn flows'"


def test_flow_id_that_is_none_is_not_asked_for() -> None:
    with pytest.raises(OverlayError, match="no flow of such an id"):
        control.kill_flow(None, "t" * 33)


def test_capture_goes_on_until_the_connection_is_closed(path: str) -> None:
    with serving(path, up):
        connection, link = control.capture(None)
        with pytest.raises(OverlayError, match="there is a capture already; end that one first"):
            control.capture(None)
        assert link.receive() is None
        connection.close()
        for _ in range(1000):
            try:
                assert link.receive() is None
            except LinkClosedError:
                break
            time.sleep(0.001)
        else:
            raise AssertionError("the capture goes on")
        link.close()


def test_pause_that_fails_says_why(path: str) -> None:
    with serving(path, up), pytest.raises(OverlayError, match=r"^the monitor does not pause$"):
        control.pause(13)


def test_before_the_tunnel_is_up_there_is_no_more_than_its_status(path: str) -> None:
    with serving(path, Up):
        assert control.query() == STATUS
        assert control.list_flows(None) == []
        for verb in LISTENS[2:]:
            with pytest.raises(OverlayError, match="the tunnel is not up yet"):
                verb()


def test_name_that_is_none_is_said_in_one_line(path: str) -> None:
    with serving(path, up):
        with pytest.raises(OverlayError, match=r"^not a name$"):
            control.resolution_of(None, "other", 1)
        with pytest.raises(OverlayError, match=r"^neither a name nor an address$"):
            control.destination_of(None, "a b", 1)


def test_down_waits_until_the_last_trace_is_gone(path: str) -> None:
    def remove_later() -> None:
        time.sleep(0.1)
        os.unlink(path)
        os.rmdir(paths.state_directory())

    with serving(path, up):
        remover = threading.Thread(target=remove_later)
        remover.start()
        started_s = time.monotonic()
        assert control.stop(10)
        assert time.monotonic() - started_s > 0.05
        remover.join()


def test_last_trace_is_looked_for_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            os.rmdir(paths.state_directory())

    monkeypatch.setattr(time, "sleep", nap)
    control.wait_until_gone(10)
    assert naps == [0.02] * 3


def test_down_that_leaves_something_is_a_failure(path: str) -> None:
    with serving(path, up), pytest.raises(OverlayError, match="run 'overlay-vpn recover'"):
        control.stop(0.1)


# No tunnel.


def test_where_no_tunnel_is_there_is_nothing_to_ask() -> None:
    assert not control.is_there()
    assert control.query() == DOWN
    assert not control.pause(60)
    assert not control.stop()
    for verb in LISTENS:
        with pytest.raises(OverlayError, match="overlay-vpn is not up here"):
            verb()


def test_listener_that_was_left_is_no_tunnel(path: str) -> None:
    with listener_at(path):
        pass
    assert not control.is_there()
    assert control.query() == DOWN


@pytest.mark.parametrize(
    ("journal", "locked", "blocked"),
    [('{"guard":1}', False, True), ('{"guard":1}', True, False), ('{"rule":1}', False, False)],
)
def test_kill_switch_holds_where_its_line_is_left_and_nobody_runs(
    journal: str, locked: bool, blocked: bool
) -> None:
    state = Path(paths.state_directory())
    (state / paths.JOURNAL).write_text(journal)
    (state / paths.LOCK).write_text("4711" if locked else "")
    with (state / paths.LOCK).open() as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert control.is_blocked() == blocked
        assert control.query() == (BLOCKED if blocked else DOWN)
        assert control.owner() == (4711 if locked else None)


@pytest.mark.parametrize(("text", "owner"), [("", 0), ("12", 12), ("none", None)])
def test_owner_is_the_number_in_a_lock_that_is_held(text: str, owner: int | None) -> None:
    lock = Path(paths.state_directory(), paths.LOCK)
    assert control.owner() is None
    lock.write_text(text)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert control.owner() == owner


def test_nobody_is_left_to_wait_for_where_the_kill_switch_holds() -> None:
    state = Path(paths.state_directory())
    (state / paths.JOURNAL).write_text('{"guard":1}')
    (state / paths.LOCK).touch()
    with pytest.raises(OverlayError, match="the network is not yet as before"):
        control.wait_until_gone(60)


# A tunnel of another user, or of another version.


def test_another_users_tunnel_is_not_asked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "uid_of", lambda sock: 4242)
    with serving(path, up):
        for verb in (*VERBS, control.stop):
            with pytest.raises(NotPermittedError, match="belongs to another user"):
                verb()


@pytest.mark.parametrize(
    "greeting",
    [
        msgspec.msgpack.encode(Hello(VERSION + 1)),
        msgspec.msgpack.encode(Done()),
        b"end",
        b"not up",
        b'{"schema":1}',
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_tunnel_of_another_version_is_one_line_and_a_status_of_its_own(
    path: str, greeting: bytes, verb: Verb
) -> None:
    with saying(path, greeting), pytest.raises(VersionError) as raised:
        verb()
    assert str(raised.value).startswith("the running overlay-vpn is of another version; restart it")
    assert raised.value.status == Exit.PROTOCOL == 76


def test_tunnel_of_another_version_can_be_taken_down(path: str) -> None:
    _, done = packets(Done())
    with (
        saying(path, msgspec.msgpack.encode(Hello(VERSION + 1)), done),
        pytest.raises(OverlayError, match="not yet as before"),  # as this one removes nothing
    ):
        control.stop(0.1)


# A tunnel that does not answer, or not as it should.


def test_silence_is_a_failure_whatever_was_asked(silent: None) -> None:
    with pytest.raises(OverlayError, match="run 'overlay-vpn down' as root"):
        control.query()
    with pytest.raises(OverlayError, match=r"^the client does not answer$"):
        control.pause(60)
    with pytest.raises(OverlayError, match="does not answer; end process None as root"):
        control.stop(0.05)
    for verb in LISTENS:
        with pytest.raises(OverlayError, match="does not answer as it should"):
            verb()


def test_backlog_that_is_full_is_silence(path: str, impatient: None) -> None:
    with listener_at(path) as listener:
        listener.listen(0)
        control.connect(path).close()
        with pytest.raises(TimeoutError):
            control.connect(path)
        with pytest.raises(OverlayError, match="does not answer"):
            control.query()
        with pytest.raises(OverlayError, match="does not answer as it should"):
            control.list_flows(None)


def test_tunnel_that_has_just_gone_is_down(path: str) -> None:
    with saying(path):
        assert control.query() == DOWN
    os.unlink(path)
    with saying(path), pytest.raises(OverlayError, match=r"^the client does not answer$"):
        control.pause(60)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"\xc1",
        msgspec.msgpack.encode(StateChanged("connected")),
        msgspec.msgpack.encode(["flow-page", [{}], True]),
        msgspec.msgpack.encode(["status", {"schema": 1, "state": "connected", "more": 1}]),
        msgspec.msgpack.encode(["dns-status", {"schema": 1}]),
        msgspec.msgpack.encode(Capturing()),
        msgspec.msgpack.encode(["done", "\0" * 200_000]),
    ],
)
@pytest.mark.parametrize("verb", LISTENS)
def test_answer_that_is_none_is_one_line(path: str, verb: Verb, answer: bytes) -> None:
    with (
        saying(path, *packets(), answer),
        pytest.raises(OverlayError, match="does not answer as it should"),
    ):
        verb()


def test_list_without_end_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_FLOWS", 2)
    page = FlowPage((FLOW,), is_last=False)
    with (
        saying(path, *packets(page, page, page)),
        pytest.raises(OverlayError, match="does not answer as it should"),
    ):
        control.list_flows(None)


def test_list_that_is_as_long_as_it_may_be_is_taken(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_FLOWS", 2)
    pages = (FlowPage((FLOW,), is_last=False), FlowPage((FLOW,), is_last=True))
    with saying(path, *packets(*pages)):
        assert control.list_flows(None) == [FLOW, FLOW]


def test_address_that_is_none_is_not_believed(path: str) -> None:
    found = DestinationStatus(addresses=("192.0.2.1", "; rm"))
    with (
        saying(path, *packets(DestinationAnswer(found))),
        pytest.raises(OverlayError, match="does not answer as it should"),
    ):
        control.destination_of(None, "a.b", 80)


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (Refused(Refusal.NOT_OFFERED), "this tunnel does not do that; see 'overlay-vpn --help'"),
        (Refused(Refusal.MALFORMED), "malformed"),
        (Refused(Refusal.FAILED, "no room"), "no room"),
    ],
)
def test_refusal_is_one_line(path: str, refused: Refused, line: str) -> None:
    with saying(path, *packets(refused)), pytest.raises(OverlayError) as raised:
        control.query()
    assert str(raised.value) == line
