"""The numbers of DNS in use here: class, port, types, response codes, extended errors.

Other numbers on the wire are legal, and stay plain integers.
"""

from __future__ import annotations

from enum import IntEnum

IN = 1
"""Class Internet, RFC 1035 §3.2.4."""


PORT = 53
"""Of DNS servers, over UDP and TCP, RFC 1035 §4.2."""


class RRType(IntEnum):
    """Types of resource records (IANA, "Resource Record (RR) TYPEs")."""

    A = 1
    CNAME = 5
    SOA = 6
    WKS = 11
    PTR = 12
    HINFO = 13
    TXT = 16
    AAAA = 28
    A6 = 38
    OPT = 41
    SVCB = 64
    HTTPS = 65
    L32 = 105
    L64 = 106
    ANY = 255


class RCode(IntEnum):
    """Response codes (RFC 1035 §4.1.1; 16 and above need an OPT record, RFC 6891 §6.1.3)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class ExtendedError(IntEnum):
    """Reasons of a failure, as dig(1) shows them (RFC 8914 §4)."""

    OTHER = 0
    BLOCKED = 15
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23
