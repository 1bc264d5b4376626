"""A UDP socket of an association, on the loopback device."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from vpn.protocol import icmp
from vpn.server.services.error_queue import FAMILIES
from vpn.server.services.udp_socket import DatagramSocket, Received

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
BOTH = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def pair(family: int) -> Iterator[tuple[DatagramSocket, socket.socket]]:
    """The socket, and a far end."""
    with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as far:
        far.bind((LOOPBACK[family], 0))
        far.settimeout(5.0)
        sock = DatagramSocket(family)
        yield sock, far
        sock.close()


Pair = tuple[DatagramSocket, socket.socket]


@BOTH
def test_datagram_has_its_hop_limit_and_is_answered(family: int, pair: Pair) -> None:
    sock, far = pair
    port = far.getsockname()[1]
    hops = (
        (socket.IPPROTO_IP, 12, socket.IP_TTL)  # IP_RECVTTL
        if family == 4
        else (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, socket.IPV6_HOPLIMIT)
    )
    far.setsockopt(hops[0], hops[1], 1)
    sock.send(LOOPBACK[family], port, 7, b"to there", may_fragment=True)
    payload, control, _, source = far.recvmsg(100, 100)
    assert payload == b"to there"
    assert [value[0] for _, kind, value in control if kind == hops[2]] == [7]
    far.sendto(b"and back", source)
    assert select.select([sock], [], [], 5.0)[0] == [sock]
    assert sock.receive() == Received(LOOPBACK[family], port, b"and back")
    assert sock.receive() is None


@pytest.mark.parametrize("family", [4])
def test_datagram_that_may_not_be_fragmented_says_so_and_the_next_one_not(pair: Pair) -> None:
    sock, far = pair
    port, discover = far.getsockname()[1], (socket.IPPROTO_IP, 10)  # IP_MTU_DISCOVER
    seen = []
    for may_fragment in (True, False, False, True):
        sock.send(LOOPBACK[4], port, 64, b"x", may_fragment=may_fragment)
        seen.append(sock._sock.getsockopt(*discover))
    assert seen == [0, 2, 2, 0]  # IP_PMTUDISC_DONT, IP_PMTUDISC_DO


@BOTH
def test_closed_port_is_an_error_and_the_next_datagram_leaves(family: int, pair: Pair) -> None:
    sock, far = pair
    with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as closed:
        closed.bind((LOOPBACK[family], 0))
        gone = closed.getsockname()[1]
    sock.send(LOOPBACK[family], gone, 64, b"lost", may_fragment=True)
    sock.send(LOOPBACK[family], far.getsockname()[1], 64, b"there", may_fragment=True)
    assert far.recv(100) == b"there"
    error = sock.receive_error()
    assert error is not None
    assert (error.kind, error.code) == icmp.PORT_UNREACHABLE[family]
    assert (error.address, error.port, error.router) == (LOOPBACK[family], gone, LOOPBACK[family])
    assert sock.receive_error() is None


def test_error_that_finds_no_room_is_not_said_for_ever() -> None:
    """The kernel keeps saying that there is one, until it is asked for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind((LOOPBACK[4], 0))
        port = far.getsockname()[1]
        full = DatagramSocket(4)
        full.send(LOOPBACK[4], port, 64, b"", may_fragment=True)
        _, source = far.recvfrom(0)
        for _ in range(4000):
            far.sendto(bytes(1400), source)
    poll = select.poll()
    poll.register(full, 0)
    full.send(LOOPBACK[4], port, 64, b"", may_fragment=True)
    assert poll.poll(5000) == [(full.fileno(), select.POLLERR)]
    assert full.receive_error() is None
    assert poll.poll(0) == []
    full.close()
