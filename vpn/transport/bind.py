"""Bound sockets, and the plain form of socket addresses."""

from __future__ import annotations

import errno
import socket
from typing import Any

from vpn.errors import TransportError
from vpn.transport.base import Address, resolve
from vpn.transport.dial import in_words

HINTS = {
    errno.EADDRINUSE: "stop the other program or choose another port",
    errno.EACCES: "choose a port above 1023, or give the service CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
}

LISTEN_BACKLOG = 1024
ANY_IPV6 = "::"
ANY_IPV4 = "0.0.0.0"
MAPPED_PREFIX = "::ffff:"  # RFC 4291, section 2.5.5.2


async def bound_socket(address: Address, kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket bound to the first address to which `address` resolves.

    A stream socket is listening already, as some conflicts show only in listen(2). `::` accepts
    both families on one socket (ipv6(7), IPV6_V6ONLY), or IPv4 alone if the kernel has no IPv6.
    Raises TransportError with one line.
    """
    try:
        try:
            return await _bound(address, kind)
        except OSError as error:
            if address.host != ANY_IPV6 or error.errno != errno.EAFNOSUPPORT:
                raise
            return await _bound(Address(ANY_IPV4, address.port), kind)
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "check the address")
        raise TransportError(f"cannot listen on {address}: {in_words(error)}; {hint}") from error


async def _bound(address: Address, kind: socket.SocketKind) -> socket.socket:
    family, name = (await resolve(address, kind))[0]
    bound = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            is_only_ipv6 = address.host != ANY_IPV6
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_only_ipv6)
        bound.bind(name)
        if kind == socket.SOCK_STREAM:
            bound.listen(LISTEN_BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> Address:
    """Return the address a socket is bound to."""
    host, port = bound.getsockname()[:2]
    return Address(host, port)


def plain_name(name: tuple[Any, ...]) -> tuple[str, int]:
    """Return `(host, port)` of a socket address; an IPv4 peer of a dual-stack socket as IPv4."""
    host, port = name[:2]
    is_mapped = host.startswith(MAPPED_PREFIX) and "." in host
    return (host.removeprefix(MAPPED_PREFIX) if is_mapped else host), port
