"""Queries of the kernel's routing: the route of a packet, and the rules (rtnetlink(7)).

No privilege is needed. The kernel decides: here a request is written and the reply is parsed. The
kernel is trusted; its messages are still read within their lengths.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from vpn.linux.routing import Packet, Prefix, Route, Rule

# linux/netlink.h, linux/rtnetlink.h, linux/fib_rules.h
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTMSG: Final = struct.Struct("=8BI")
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_RTM_NEWRULE: Final = 32
_RTM_GETRULE: Final = 34
_RTM_F_LOOKUP_TABLE: Final = 0x1000
_RTM_F_FIB_MATCH: Final = 0x2000
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE, _RTA_MARK = 1, 4, 5, 7, 15, 16
_RTA_IP_PROTO, _RTA_DPORT = 27, 29
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 4, 6, 10
_FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_L3MDEV = 14, 15, 16, 17, 19
_FRA_UID_RANGE, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = (
    20,
    21,
    22,
    23,
    24,
)
_FIB_RULE_INVERT: Final = 2
_FR_ACT_GOTO: Final = 2
_FR_ACT_NOP: Final = 3

_KINDS: Final = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast"}
_ERRORS: Final = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES}
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_BUFFER_BYTES: Final = 1 << 17

_Attributes = dict[int, bytes]


def route_of(packet: Packet) -> Route:
    """Return the route of a packet of this network namespace.

    Raises OSError, with the error that a program would get: ENETUNREACH, EHOSTUNREACH, EACCES.
    """
    found = _ask_route(packet, _RTM_F_LOOKUP_TABLE)
    try:
        matched = _ask_route(packet, _RTM_F_LOOKUP_TABLE | _RTM_F_FIB_MATCH)
    except OSError:
        matched = found
    fields, attributes = found
    kind = fields[7]
    if kind in _ERRORS:
        raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]))
    destination = matched[1].get(_RTA_DST)
    network = ip_address(destination) if destination else ip_address(bytes(len(packet.packed)))
    index = attributes.get(_RTA_OIF)
    return Route(
        kind=_KINDS.get(kind, "unicast"),
        table=_number(attributes.get(_RTA_TABLE)) or fields[4],
        prefix=Prefix(str(network), matched[0][1]),
        device=socket.if_indextoname(_number(index)) if index else "",
        gateway=_text(attributes.get(_RTA_GATEWAY)),
        source=_text(attributes.get(_RTA_PREFSRC)),
    )


def rules(family: int) -> list[Rule]:
    """Return the routing rules of a family, 4 or 6, in their order. Raises OSError."""
    question = _RTMSG.pack(_FAMILIES[family], 0, 0, 0, 0, 0, 0, 0, 0)
    messages = _exchange(_RTM_GETRULE, _NLM_F_DUMP, question)
    return [_rule(body) for kind, body in messages if kind == _RTM_NEWRULE]


def _ask_route(packet: Packet, flags: int) -> tuple[tuple[int, ...], _Attributes]:
    destination = packet.packed
    family = _FAMILIES[4 if len(destination) == 4 else 6]
    question = _RTMSG.pack(family, 8 * len(destination), 0, 0, 0, 0, 0, 0, flags)
    question += _attribute(_RTA_DST, destination)
    if packet.mark:
        question += _attribute(_RTA_MARK, struct.pack("=I", packet.mark))
    if packet.port:
        question += _attribute(_RTA_IP_PROTO, bytes([packet.protocol]))
        question += _attribute(_RTA_DPORT, struct.pack("!H", packet.port))
    for kind, body in _exchange(_RTM_GETROUTE, 0, question):
        if kind == _RTM_NEWROUTE:
            return _RTMSG.unpack_from(body), _attributes(body[_RTMSG.size :])
    raise OSError(errno.EPROTO, "no route in the kernel's answer")


def _rule(body: bytes) -> Rule:
    fields, found = _RTMSG.unpack_from(body), _attributes(body[_RTMSG.size :])
    action, flags = fields[7], fields[8]
    ports = found.get(_FRA_DPORT_RANGE)
    suppressed = found.get(_FRA_SUPPRESS_PREFIXLEN)
    return Rule(
        priority=_number(found.get(_FRA_PRIORITY)),
        table=_number(found.get(_FRA_TABLE)) or fields[4],
        goto=_number(found.get(_FRA_GOTO)) if action == _FR_ACT_GOTO else 0,
        is_nothing=action == _FR_ACT_NOP,
        origin=_number(found.get(_FRA_PROTOCOL)),
        source=_prefix(found.get(_FRA_SRC), fields[2]),
        destination=_prefix(found.get(_FRA_DST), fields[1]),
        mark=_number(found.get(_FRA_FWMARK)),
        mark_mask=_number(found.get(_FRA_FWMASK)),
        incoming=found.get(_FRA_IIFNAME, b"").rstrip(b"\0").decode(),
        protocol=_number(found.get(_FRA_IP_PROTO)),
        ports=range(0) if ports is None else _range(ports),
        suppresses=-1 if suppressed is None else struct.unpack("=i", suppressed)[0],
        # About what is not known of a packet here.
        is_unclear=bool(
            flags & _FIB_RULE_INVERT
            or found.keys() & {_FRA_OIFNAME, _FRA_L3MDEV, _FRA_SPORT_RANGE}
            or found.get(_FRA_UID_RANGE, _ALL_USERS) != _ALL_USERS
        ),
    )


_ALL_USERS: Final = struct.pack("=II", 0, 0xFFFFFFFF)


def _exchange(kind: int, flags: int, question: bytes) -> Iterator[tuple[int, bytes]]:
    """Ask, and return the messages of the answer. Raises OSError."""
    size = _HEADER.size + len(question)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(5.0)
        sock.send(_HEADER.pack(size, kind, _NLM_F_REQUEST | flags, 1, 0) + question)
        while True:
            data = sock.recv(_BUFFER_BYTES)
            while len(data) >= _HEADER.size:
                length, found, _, _, _ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if found == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    raise OSError(error, os.strerror(error))
                if found == _NLMSG_DONE:
                    return
                yield found, body
                if not flags:
                    return


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _attributes(data: bytes) -> _Attributes:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]
    return found


def _number(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value, "little" if _IS_LITTLE else "big")


_IS_LITTLE: Final = struct.pack("=H", 1)[0] == 1


def _text(value: bytes | None) -> str:
    return "" if value is None else str(_address(value))


def _address(value: bytes) -> IPv4Address | IPv6Address:
    return ip_address(value)


def _prefix(value: bytes | None, bits: int) -> Prefix | None:
    return None if value is None else Prefix(_text(value), bits)


def _range(value: bytes) -> range:
    first, last = struct.unpack("=HH", value)
    return range(first, last + 1)
