"""The messages: what is the largest of each kind has room, and none is more than it says."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from fakes import RUN, STATUS
from flow_sample import FLOW
from hypothesis import given
from hypothesis import strategies as st

from shim.protocol.gate import MAX_NAME, MAX_NAME_TEXT, MAX_SUFFIXES
from shim.protocol.handover import pair
from shim.protocol.link import Message, ViolationError
from shim.protocol.monitor import MAX_PREFIXES
from vpn.control.messages import (
    CLIENT,
    CLIENT_OF_PARENT,
    FLOWS_PER_PAGE,
    MAX_FLOW_ID,
    MAX_PROBLEM,
    PARENT,
    SERVER,
    DestinationAnswer,
    DestinationStatus,
    DnsStatus,
    DnsStatusAnswer,
    Done,
    Exited,
    Finished,
    FlowPage,
    GetDestination,
    GetResolution,
    GetStatus,
    KillFlow,
    NotReady,
    PauseFor,
    Pool,
    Refusal,
    Refused,
    Resolution,
    RunAnswer,
    StateChanged,
    StatusAnswer,
)

NAME = "n" * MAX_NAME
WIDE = "\U0001f600"
MANY = 1 << 63
FLOW_OF_ALL = msgspec.structs.replace(
    FLOW,
    id=f"t{MANY}",
    source="2001:db8:1111:2222:3333:4444:5555:6666",
    source_port=65535,
    destination=NAME,
    destination_port=65535,
    bytes_up=MANY,
    bytes_down=MANY,
    age_s=MANY,
    idle_s=MANY,
    state="half-closed-remote",
    exit="loopback",
)
DNS_OF_ALL = DnsStatus(
    mode="remote",
    asked=NAME,
    is_connected=True,
    is_captured=True,
    suffixes=(NAME,) * MAX_SUFFIXES,
    hosts={f"{number}{'n' * 250}": f"[{'f' * 39}]:65535" for number in range(MAX_SUFFIXES)},
    search=(NAME,) * 6,
    pool=Pool(MANY, MANY, MANY),
    cache_answers=MANY,
    cache_hits=MANY,
    resolved=NAME,
    paused_s=MANY,
    warnings=(NAME,) * 8,
)
WAY_OF_ALL = Resolution(way="refused", asked=NAME, age_s=MANY, left_s=MANY, rule="r" * 1024)
LARGEST: list[Message] = [
    FlowPage((FLOW_OF_ALL,) * FLOWS_PER_PAGE, is_last=True),
    StatusAnswer(
        msgspec.structs.replace(
            STATUS,
            routes=("2001:db8:1111:2222:3333:4444:5555:6666/128",) * MAX_PREFIXES
            + (NAME,) * MAX_SUFFIXES,
            last_error=WIDE * MAX_PROBLEM,
            dropped={f"reason-{number}": MANY for number in range(64)},
            warnings=(WIDE * 1024,) * 8,
        )
    ),
    DnsStatusAnswer(DNS_OF_ALL),
    DestinationAnswer(
        DestinationStatus(
            name=NAME,
            way=WAY_OF_ALL,
            addresses=("2001:db8:1111:2222:3333:4444:5555:6666",) * 2,
            rule="r" * 1024,
            last_error=WIDE * MAX_PROBLEM,
        )
    ),
    RunAnswer(msgspec.structs.replace(RUN, command=("a" * 1000,) * 128)),
    Refused(Refusal.NOT_PERMITTED, WIDE * MAX_PROBLEM),
    StateChanged("reconnecting", WIDE * 4000),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda one: type(one).__name__)
def test_largest_answer_of_each_kind_has_room_on_the_link_and_in_the_kernel(
    message: Message,
) -> None:
    client, server = pair(CLIENT, SERVER)
    assert server.send(message)
    assert client.receive() == (message, [])
    client.close()
    server.close()


@pytest.mark.parametrize(
    "message",
    [
        KillFlow(WIDE * MAX_FLOW_ID),
        GetResolution("n" * MAX_NAME_TEXT, 65535),
        GetDestination("n" * MAX_NAME_TEXT, 65535),
        PauseFor(-MANY),
    ],
    ids=lambda one: type(one).__name__,
)
def test_largest_request_of_each_kind_has_room(message: Message) -> None:
    client, server = pair(CLIENT, SERVER)
    assert client.send(message)
    assert server.receive() == (message, [])
    client.close()
    server.close()


def test_largest_line_for_the_parent_of_a_run_has_room() -> None:
    parent, client = pair(PARENT, CLIENT_OF_PARENT)
    for message in (NotReady(WIDE * MAX_PROBLEM), Finished(True, WIDE * MAX_PROBLEM)):
        assert client.send(message)
        assert parent.receive() == (message, [])
    assert parent.send(Exited(255))
    assert client.receive() == (Exited(255), [])
    parent.close()
    client.close()


def test_flow_of_another_shape_is_a_violation() -> None:
    client, server = pair(CLIENT, SERVER)
    for document in ({**msgspec.structs.asdict(FLOW), "more": 1}, {"id": "t1"}):
        server._sock.send(msgspec.msgpack.encode(["flow-page", [document], True]))
        with pytest.raises(ViolationError):
            client.receive()
    client.close()
    server.close()


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_message_of_the_set_or_a_violation(data: bytes) -> None:
    client, server = pair(CLIENT, SERVER)
    client._sock.send(data)
    with suppress(ViolationError):
        received = server.receive()
        assert received is not None
        assert isinstance(received[0], Message)
    client.close()
    server.close()


def test_neither_end_takes_what_only_the_other_may_say() -> None:
    client, server = pair(CLIENT, SERVER)
    client.send(Done())
    server.send(GetStatus())
    for end in (client, server):
        with pytest.raises(ViolationError):
            end.receive()
        end.close()
