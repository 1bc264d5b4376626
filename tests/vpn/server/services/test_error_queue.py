"""The error queue: what recvmsg(2) returns of it becomes an error, or none."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest

from vpn.server.services.error_queue import ErrorQueue, QueuedError, parse

OPTIONS = {4: (0, 11), 6: (41, 25)}
LOCAL, ICMP, ICMP6 = 1, 2, 3
NAMES: dict[int, Any] = {4: ("192.0.2.1", 53), 6: ("fe80::1%eth0", 53, 0, 2)}
PEERS = {4: "192.0.2.1", 6: "fe80::1"}
ROUTERS = {4: "198.51.100.1", 6: "2001:db8::1"}
PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def extended(
    family: int,
    error: tuple[int, int],
    *,
    number: int = 0,
    origin: int | None = None,
    info: int = 0,
) -> bytes:
    """`struct sock_extended_err`, and the address of the router behind it."""
    origin = (ICMP if family == 4 else ICMP6) if origin is None else origin
    head = struct.pack("=IBBBxII", number, origin, *error, info, 0)
    if family == 4:
        return head + struct.pack("=HH4s8x", 2, 0, socket.inet_aton(ROUTERS[4]))
    return head + struct.pack("=HHI16sI", 10, 0, 0, socket.inet_pton(10, ROUTERS[6]), 0)


def read(family: int, value: bytes, name: Any = "as usual") -> QueuedError | None:
    control = [(1, 29, b"a timestamp"), (*OPTIONS[family], value)]
    return parse(family, b"quoted", control, NAMES[family] if name == "as usual" else name)


@FAMILIES
def test_error_of_a_router_is_read(family: int) -> None:
    assert read(family, extended(family, PORT_UNREACHABLE[family], info=9)) == QueuedError(
        PEERS[family], 53, *PORT_UNREACHABLE[family], 0, ROUTERS[family], b"quoted", False
    )


@FAMILIES
def test_packet_too_big_for_a_link_has_its_mtu(family: int) -> None:
    error = read(family, extended(family, TOO_BIG[family], info=1280))
    assert error is not None
    assert (error.kind, error.code, error.mtu, error.is_local) == (*TOO_BIG[family], 1280, False)


@FAMILIES
def test_packet_too_big_for_here_is_reported_as_by_a_router(family: int) -> None:
    value = extended(family, (0, 0), number=errno.EMSGSIZE, origin=LOCAL, info=1400)
    assert read(family, value) == QueuedError(
        PEERS[family], 53, *TOO_BIG[family], 1400, "", b"quoted", True
    )


@FAMILIES
def test_other_error_of_this_machine_is_none(family: int) -> None:
    assert read(family, extended(family, (0, 0), number=errno.EACCES, origin=LOCAL)) is None


@FAMILIES
def test_router_that_is_not_named(family: int) -> None:
    whole = extended(family, PORT_UNREACHABLE[family])
    for value in (whole[:16], whole[:18], whole[:16] + bytes(len(whole) - 16)):
        error = read(family, value)
        assert error is not None
        assert error.router == ""


@FAMILIES
def test_destination_that_is_not_named(family: int) -> None:
    error = read(family, extended(family, PORT_UNREACHABLE[family]), None)
    assert error is not None
    assert (error.address, error.port) == ("", 0)


@FAMILIES
def test_cut_error_is_none(family: int) -> None:
    assert read(family, extended(family, PORT_UNREACHABLE[family])[:15]) is None


def test_error_of_the_other_family_is_none() -> None:
    assert parse(6, b"", [(*OPTIONS[4], extended(4, (3, 3)))], NAMES[6]) is None
    assert parse(4, b"", [], NAMES[4]) is None


@pytest.mark.parametrize(("family", "loopback"), [(4, "127.0.0.1"), (6, "::1")])
def test_closed_port_comes_by_the_queue_of_a_real_socket(family: int, loopback: str) -> None:
    address_family = socket.AF_INET if family == 4 else socket.AF_INET6
    with (
        socket.socket(address_family, socket.SOCK_DGRAM) as closed,
        socket.socket(address_family, socket.SOCK_DGRAM) as sock,
    ):
        closed.bind((loopback, 0))
        port = closed.getsockname()[1]
        closed.close()
        sock.setblocking(False)
        queue = ErrorQueue(sock, family, quoted_bytes=4)
        assert queue.read() is None
        sock.sendto(b"payload", (loopback, port))
        assert queue.read() == QueuedError(
            loopback, port, *PORT_UNREACHABLE[family], 0, loopback, b"payl", False
        )
        assert queue.read() is None
