"""One packet of every kind that must not leave the app beside the tunnel.

Each probe is run by `host.call(probe)` and does not wait for an answer. A probe that the kernel
refuses (no route) has not leaked, so that is no failure.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from lab.addresses import APP, ROUTER, TARGET

# A question for the A record of www.example.com (RFC 1035 section 4.1).
QUESTION = bytes.fromhex(
    "1234 0100 0001 0000 0000 0000 03777777076578616d706c6503636f6d00 0001 0001"
)
RESOLVER = "203.0.113.53"
"""A resolver that a program has built in."""
_ECHO = {4: bytes.fromhex("0800 f7ff 0000 0000"), 6: bytes.fromhex("8000 0000 0000 0000")}


Way = Callable[[socket.socket], None]
"""How a socket is tied to a way out before it is used."""


def _from_address(one: socket.socket) -> None:
    one.bind((APP.v4 if one.family == socket.AF_INET else APP.v6, 0))


def _from_device(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")


def _unicast_if(one: socket.socket) -> None:
    index = struct.pack("!I", socket.if_nametoindex("eth0"))  # ip(7), IP_UNICAST_IF
    if one.family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, 50, index)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, 76, index)


def _send(
    family: int,
    kind: int,
    number: int,
    to: tuple[str, int],
    data: bytes,
    way: Way = lambda _: None,
) -> None:
    with socket.socket(family, kind, number) as one, suppress(OSError):
        way(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        one.sendto(data, to)


def _syn(family: int, to: tuple[str, int], way: Way = lambda _: None) -> None:
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    with socket.socket(family, kind) as one, suppress(OSError):
        way(one)
        one.connect_ex(to)


def _fragments(to: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, suppress(OSError):
        one.sendto(bytes(4000), to)


def _raw_ethernet() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one, suppress(OSError):
        one.bind(("eth0", 0))
        one.send(b"\xff" * 6 + bytes(6) + struct.pack("!H", 0x88B5) + b"local experiment")


V4, V6 = socket.AF_INET, socket.AF_INET6
_UDP, _RAW = socket.SOCK_DGRAM, socket.SOCK_RAW

PROBES: Mapping[str, Callable[[], None]] = {
    "tcp4": partial(_syn, V4, (TARGET.v4, 80)),
    "tcp6": partial(_syn, V6, (TARGET.v6, 80)),
    "udp4": partial(_send, V4, _UDP, 0, (TARGET.v4, 4000), b"udp"),
    "udp6": partial(_send, V6, _UDP, 0, (TARGET.v6, 4000), b"udp"),
    "udp4 fragments": partial(_fragments, (TARGET.v4, 4001)),
    "stub resolver": partial(_send, V4, _UDP, 0, (ROUTER.v4, 53), QUESTION),
    "built-in resolver, udp": partial(_send, V4, _UDP, 0, (RESOLVER, 53), QUESTION),
    "built-in resolver, tcp": partial(_syn, V4, (RESOLVER, 53)),
    "icmp4 echo": partial(_send, V4, _RAW, socket.IPPROTO_ICMP, (TARGET.v4, 0), _ECHO[4]),
    "icmp6 echo": partial(_send, V6, _RAW, socket.IPPROTO_ICMPV6, (TARGET.v6, 0), _ECHO[6]),
    "unknown protocol": partial(_send, V4, _RAW, 253, (TARGET.v4, 0), b"RFC 3692"),
    "multicast dns": partial(_send, V4, _UDP, 0, ("224.0.0.251", 5353), QUESTION),
    "broadcast": partial(_send, V4, _UDP, 0, ("255.255.255.255", 137), b"who"),
    "ethernet": _raw_ethernet,
}

_WAYS: Mapping[str, Way] = {
    "address": _from_address,
    "device": _from_device,
    "interface": _unicast_if,
}

BOUND: Mapping[str, Callable[[], None]] = {
    f"{name} by {tie}": probe
    for tie, way in _WAYS.items()
    for name, probe in {
        "tcp4": partial(_syn, V4, (TARGET.v4, 80), way),
        "tcp6": partial(_syn, V6, (TARGET.v6, 80), way),
        "udp4": partial(_send, V4, _UDP, 0, (TARGET.v4, 4000), b"udp", way),
        "udp6": partial(_send, V6, _UDP, 0, (TARGET.v6, 4000), b"udp", way),
        "stub resolver": partial(_send, V4, _UDP, 0, (ROUTER.v4, 53), QUESTION, way),
        "icmp4": partial(_send, V4, _RAW, socket.IPPROTO_ICMP, (TARGET.v4, 0), _ECHO[4], way),
    }.items()
}
"""Sockets that are tied to the way beside the tunnel: to its address or to its device."""

ONLY_ROOT_CAN = "ethernet"
"""A packet socket is below every filter (packet(7)); it takes CAP_NET_RAW."""
