"""The reasons why a flow is not opened, and the table of what stands for each of them. Pure.

`CAUSES` is the one place that says what an error of connect(2), of getaddrinfo(3) or a text of
another SSH server means. Its readers are at the boundaries: `vpn.server.failures` for the errors of
this machine, `vpn.ssh.open_failure` for the wire, `vpn.protocol.icmp` for what hosts are told.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Failure(Enum):
    """A reason why a flow was not opened; the value is the word on the wire."""

    ECONNREFUSED = "ECONNREFUSED"
    EHOSTUNREACH = "EHOSTUNREACH"
    ENETUNREACH = "ENETUNREACH"
    ETIMEDOUT = "ETIMEDOUT"
    NXDOMAIN = "NXDOMAIN"
    POLICY = "POLICY"
    UNAVAILABLE = "UNAVAILABLE"  # the session, the server's resources or its resolver
    UNSUPPORTED = "UNSUPPORTED"  # by this kind of server


@dataclass(frozen=True, slots=True)
class Cause:
    """Everything that stands for one failure.

    `text` is for people. `errnos` are errors of connect(2) and sendmsg(2), `lookups` the names of
    errors of getaddrinfo(3), not all of which every C library has. `wordings` are parts, in lower
    case, of the texts by which other SSH servers report it.
    """

    text: str
    errnos: tuple[int, ...] = ()
    lookups: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()


CAUSES: Final[Mapping[Failure, Cause]] = {
    Failure.ECONNREFUSED: Cause(
        "connection refused",
        (errno.ECONNREFUSED, errno.ECONNRESET),
        wordings=("connection refused", "actively refused", "connection reset"),  # 2nd: Windows
    ),
    Failure.EHOSTUNREACH: Cause(
        "no route to host",
        (errno.EHOSTUNREACH, errno.EHOSTDOWN),
        wordings=(
            "no route to host",
            "host is unreachable",  # musl
            "host is down",
            "unreachable host",  # Windows
        ),
    ),
    Failure.ENETUNREACH: Cause(
        "network is unreachable",
        (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT),
        wordings=(
            "network is unreachable",
            "network unreachable",  # musl
            "network is down",
            "unreachable network",  # Windows
            "assign requested address",  # no address of that family: both libcs
        ),
    ),
    Failure.POLICY: Cause(
        "denied",
        (errno.EACCES, errno.EPERM),  # ICMPv6 administratively prohibited, or a firewall rule
        wordings=("permission denied", "operation not permitted"),
    ),
    Failure.UNAVAILABLE: Cause(
        "the server cannot open it now",
        wordings=(
            "temporary failure in name resolution",
            "name could not be resolved at this time",  # FreeBSD
            "non-recoverable",
            "try again",  # musl
        ),
    ),
    Failure.NXDOMAIN: Cause(
        "name does not resolve",
        lookups=("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY"),
        wordings=(
            "name or service not known",  # glibc
            "no address associated with",
            "address family for hostname not supported",
            "name does not resolve",  # musl, FreeBSD
            "name has no usable address",  # musl
            "nodename nor servname provided",  # macOS
            "hostname nor servname provided",  # older BSDs
            "no such host",  # Go, Windows
            "host not found",
        ),
    ),
    Failure.ETIMEDOUT: Cause(
        "connection timed out",
        (errno.ETIMEDOUT,),
        wordings=("timed out", "timeout"),  # 2nd: Go
    ),
    Failure.UNSUPPORTED: Cause("the server has no such service"),
}
"""In the order in which texts are searched: of several attempts in one text, the first decides."""


@dataclass(eq=False)
class OpenFailed(Exception):  # noqa: N818 - an answer of the far end, not an error here
    """A flow was not opened. `detail` is the rule for POLICY, else text for people, or empty."""

    failure: Failure
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.failure.value}: {self.detail or CAUSES[self.failure].text}"
