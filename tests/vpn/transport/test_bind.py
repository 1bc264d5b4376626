"""Bound sockets and plain names, against the kernel."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from vpn.errors import TransportError
from vpn.transport import bind
from vpn.transport.base import Address
from vpn.transport.bind import address_of, bound_socket, plain_name

Run = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (("192.0.2.1", 7), ("192.0.2.1", 7)),
        (("2001:db8::1", 7, 0, 0), ("2001:db8::1", 7)),
        (("::ffff:192.0.2.1", 7, 0, 0), ("192.0.2.1", 7)),
        (("::ffff:c000", 7, 0, 0), ("::ffff:c000", 7)),
        (("192.0.2.1", 7, b"local"), ("192.0.2.1", 7)),
    ],
)
def test_name_is_plain(name: tuple[Any, ...], plain: tuple[str, int]) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("host", "is_only_ipv6"), [("::", 0), ("::1", 1)])
def test_any_address_alone_takes_both_families(
    run: Run, kind: socket.SocketKind, host: str, is_only_ipv6: int
) -> None:
    with run(bound_socket(Address(host, 0), kind)) as bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == is_only_ipv6
        assert not bound.getblocking()
        assert not os.get_inheritable(bound.fileno())
        assert address_of(bound).host == host
        assert address_of(bound).port > 0


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_stream_socket_listens_and_reuses_its_address(run: Run, kind: socket.SocketKind) -> None:
    is_stream = kind == socket.SOCK_STREAM
    with run(bound_socket(Address("127.0.0.1", 0), kind)) as bound:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == is_stream
        assert bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) == is_stream


def test_kernel_without_ipv6_listens_on_ipv4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, *arguments: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *arguments)

    monkeypatch.setattr(bind.socket, "socket", without_ipv6)
    with run(bound_socket(Address("::", 0), socket.SOCK_DGRAM)) as bound:
        assert address_of(bound).host == "0.0.0.0"
    with pytest.raises(TransportError, match="address family not supported"):
        run(bound_socket(Address("::1", 0), socket.SOCK_DGRAM))


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (Address("192.0.2.1", 0), "cannot assign requested address; choose an address of this"),
        (Address("a..b", 1), r"the name cannot be resolved \(not a host name\); check the address"),
    ],
)
def test_failure_is_one_line_that_says_what_to_do(run: Run, address: Address, line: str) -> None:
    with pytest.raises(TransportError, match=f"cannot listen on {address}: {line}"):
        run(bound_socket(address, socket.SOCK_STREAM))


def test_port_in_use_is_refused_with_advice(run: Run) -> None:
    with (
        run(bound_socket(Address("127.0.0.1", 0), socket.SOCK_STREAM)) as first,
        pytest.raises(TransportError, match=r"already in use; stop the other program or"),
    ):
        run(bound_socket(address_of(first), socket.SOCK_STREAM))
