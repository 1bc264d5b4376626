"""ICMP errors: their types and codes in both families, and the failures they stand for. Pure.

A destination that cannot be reached is reported by "destination unreachable", type 3 of ICMP
(RFC 792, RFC 1812 §5.2.7.1) and type 1 of ICMPv6 (RFC 4443 §3.1), a packet that is too big for a
link by a type and code of its own, with the MTU of that link (RFC 1191 §4, RFC 4443 §3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from vpn.protocol.failure import Failure

Family = Literal[4, 6]
Error = tuple[int, int]
"""A type and a code."""

UNREACHABLE: Final[Mapping[int, int]] = {4: 3, 6: 1}
"""The type of "destination unreachable", by family."""

NET_UNREACHABLE: Final[Mapping[int, Error]] = {4: (3, 0), 6: (1, 0)}
HOST_UNREACHABLE: Final[Mapping[int, Error]] = {4: (3, 1), 6: (1, 3)}
PORT_UNREACHABLE: Final[Mapping[int, Error]] = {4: (3, 3), 6: (1, 4)}
PROHIBITED: Final[Mapping[int, Error]] = {4: (3, 13), 6: (1, 1)}
PACKET_TOO_BIG: Final[Mapping[int, Error]] = {4: (3, 4), 6: (2, 0)}

_ALL_PROHIBITED: Final = {4: {(3, 9), (3, 10), (3, 13)}, 6: {(1, 1)}}

_ERRORS: Final = {
    Failure.ECONNREFUSED: PORT_UNREACHABLE,
    Failure.EHOSTUNREACH: HOST_UNREACHABLE,
    Failure.NXDOMAIN: HOST_UNREACHABLE,
    Failure.ENETUNREACH: NET_UNREACHABLE,
    Failure.UNAVAILABLE: NET_UNREACHABLE,
    Failure.POLICY: PROHIBITED,
    Failure.UNSUPPORTED: PROHIBITED,
}


def error_for(failure: Failure, family: int) -> Error | None:
    """Return the error that reports a failure in a family, 4 or 6. None for a timeout: silence."""
    error = _ERRORS.get(failure)
    return None if error is None else error[family]


def failure_of(kind: int, code: int, family: int) -> Failure:
    """Return the failure of a destination that an error reports.

    One about the way there (time exceeded, packet too big) is no result: ETIMEDOUT.
    """
    if (kind, code) in _ALL_PROHIBITED[family]:
        return Failure.POLICY
    if kind == UNREACHABLE[family] and (kind, code) != PACKET_TOO_BIG[family]:
        return Failure.EHOSTUNREACH
    return Failure.ETIMEDOUT
