"""Requests to the shim: each has the reply that follows it, and no descriptor is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from client_lab import has_ended, received
from dialogues import dialogue, until

from shim.protocol import DEVICE, VERSION, monitor, namespace
from shim.protocol.common import Failed, Fault, Hello, Missing
from shim.protocol.handover import pair
from shim.protocol.link import Link
from shim.protocol.monitor import Captured, Mark, Marked, Paused, Welcome
from vpn.client.shim import requests
from vpn.client.shim.monitor import Monitor
from vpn.client.shim.namespace import Namespace
from vpn.errors import ConfigurationError, OverlayError


class Bench:
    """A monitor and a namespace that are played, and the clients of both."""

    def __init__(self) -> None:
        ours, self.peer = pair(monitor.CLIENT_OF_MONITOR, monitor.MONITOR)
        self.monitor = Monitor(ours)
        inner, self.inside = pair(namespace.CLIENT_OF_NAMESPACE, namespace.NAMESPACE)
        self.namespace = Namespace(inner)

    def close(self) -> None:
        for one in (self.monitor, self.peer, self.namespace, self.inside):
            one.close()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.close()


play = dialogue(bench)


def send_pipe(peer: Link, message: Welcome | namespace.InnerSocket) -> int:
    """Send an end of a pipe with each place for a descriptor; returns the end that stays."""
    reading, writing = os.pipe()
    assert peer.send(message, (writing,) * message.FDS)
    os.close(writing)
    return reading


def is_closed_elsewhere(reading: int) -> bool:
    """Whether no writing end of a pipe is open any more."""
    os.set_blocking(reading, False)
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


@play
async def test_hello_is_answered_with_links_and_what_is_missing(bench: Bench) -> None:
    bench.monitor.missing = (Missing.LANDLOCK,)
    asking = asyncio.create_task(bench.monitor.hello())
    hello, _ = await received(bench.peer, Hello)
    assert hello.version == VERSION
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    fds = tuple(theirs.fileno() for _, theirs in ends)
    assert bench.peer.send(Welcome(VERSION, DEVICE, (Missing.LANDLOCK, Missing.SECCOMP)), fds)
    gate, control = await asking
    assert bench.monitor.missing == (Missing.LANDLOCK, Missing.SECCOMP)
    ends[1][0].send(b"x")
    assert control.recv(1) == b"x"
    gate.close()
    control.close()
    for one in (*ends[0], *ends[1]):
        one.close()


@play
async def test_replies_come_in_the_order_of_the_requests(bench: Bench) -> None:
    net = ip_network("10.0.0.0/8")
    capturing = bench.monitor.capture(
        everything=False, names=True, kill_switch=False, lan=True, prefixes=(net,)
    )
    asking = asyncio.gather(capturing, bench.monitor.pause(7))
    captured, _ = await received(bench.peer, monitor.Capture)
    assert captured.prefixes == (monitor.Prefix(bytes([10, 0, 0, 0]), 8),)
    assert (await received(bench.peer, monitor.Pause))[0].seconds == 7
    assert bench.peer.send(Captured())
    assert bench.peer.send(Paused())
    await asking


@play
async def test_fault_is_an_error_for_the_user(bench: Bench) -> None:
    asking = asyncio.create_task(bench.monitor.pause(1))
    await received(bench.peer, monitor.Pause)
    assert bench.peer.send(Failed(Fault.NO_TUN, 2))
    with pytest.raises(ConfigurationError, match="TUN"):
        await asking


@play
async def test_reply_to_another_request_is_an_error_and_its_descriptors_are_closed(
    bench: Bench,
) -> None:
    asking = asyncio.create_task(bench.monitor.pause(1))
    await received(bench.peer, monitor.Pause)
    reading = send_pipe(bench.peer, Welcome(VERSION, DEVICE, ()))
    with pytest.raises(OverlayError, match="has ended"):
        await asking
    assert is_closed_elsewhere(reading)
    os.close(reading)


@play
async def test_reply_without_a_request_ends_the_link(bench: Bench) -> None:
    reading = send_pipe(bench.peer, Welcome(VERSION, DEVICE, ()))
    await asyncio.wait_for(bench.monitor.closed, 5)
    assert is_closed_elsewhere(reading)
    os.close(reading)


@play
async def test_reply_that_nobody_waits_for_is_closed_and_the_next_request_has_its_own(
    bench: Bench,
) -> None:
    asking = asyncio.create_task(bench.monitor.hello())
    await received(bench.peer, Hello)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    pausing = asyncio.create_task(bench.monitor.pause(1))
    await received(bench.peer, monitor.Pause)
    reading = send_pipe(bench.peer, Welcome(VERSION, DEVICE, ()))
    assert bench.peer.send(Paused())
    await pausing
    assert is_closed_elsewhere(reading)
    os.close(reading)


@play
async def test_request_without_a_reply_is_an_error_in_time(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "_TIMEOUT_S", 0.01)
        with pytest.raises(OverlayError, match="does not answer"):
            await bench.monitor.pause(1)


@play
async def test_end_of_the_shim_is_an_error_of_each_request(bench: Bench) -> None:
    asking = asyncio.create_task(bench.monitor.pause(1))
    await received(bench.peer, monitor.Pause)
    bench.peer.close()
    with pytest.raises(OverlayError, match="has ended"):
        await asking
    with pytest.raises(OSError, match="has ended"):
        await bench.monitor.outer_socket(socket.AF_INET, socket.SOCK_STREAM)


@play
async def test_outer_socket_is_marked_before_it_is_used(bench: Bench) -> None:
    making = asyncio.create_task(bench.monitor.outer_socket(socket.AF_INET, socket.SOCK_DGRAM))
    _, (fd,) = await received(bench.peer, Mark)
    marked = os.fstat(fd).st_ino
    os.close(fd)
    assert not making.done()
    assert bench.peer.send(Marked())
    sock = await making
    assert os.fstat(sock.fileno()).st_ino == marked
    sock.close()


@play
async def test_down_is_a_message_without_a_reply(bench: Bench) -> None:
    bench.monitor.down()
    await received(bench.peer, monitor.Down)
    bench.monitor.close()
    await until(lambda: has_ended(bench.peer))


@play
async def test_namespace_is_entered_with_four_descriptors(bench: Bench) -> None:
    entering = asyncio.create_task(bench.namespace.enter())
    await received(bench.inside, Hello)
    gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt", "net")]
    inodes = [os.fstat(one).st_ino for one in spaces]
    message = namespace.Namespace(VERSION, (Missing.SECCOMP,))
    assert bench.inside.send(message, (theirs.fileno(), *spaces))
    link, entered = await entering
    assert bench.namespace.missing == (Missing.SECCOMP,)
    assert [os.fstat(one).st_ino for one in entered] == inodes
    for one in (*spaces, *entered):
        os.close(one)
    for end in (link, gate, theirs):
        end.close()


@play
async def test_inner_socket_does_not_block(bench: Bench) -> None:
    making = asyncio.create_task(bench.namespace.inner_socket(6))
    assert (await received(bench.inside, namespace.InnerSocketWanted))[0].family == 6
    with socket.socket(socket.AF_INET6) as made:
        assert bench.inside.send(namespace.InnerSocket(), (made.fileno(),))
    sock = await making
    assert not sock.getblocking()
    sock.close()


@play
async def test_inner_socket_that_cannot_be_made_is_an_oserror(bench: Bench) -> None:
    making = asyncio.create_task(bench.namespace.inner_socket(4))
    await received(bench.inside, namespace.InnerSocketWanted)
    assert bench.inside.send(Failed(Fault.NETLINK, 0))
    with pytest.raises(OSError, match="network"):
        await making
