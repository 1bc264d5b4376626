"""The target of a tunnel as users write it: a server and its transport. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vpn.endpoint import SSH_PORT, parse_host_port
from vpn.errors import UsageError
from vpn.transport.base import Address

QUIC_PORT: Final = 4422

_FORMS: Final = "user@host:port or ssh://user@host[:port]"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]+(%\w+)?")


@dataclass(frozen=True, slots=True)
class Target:
    """A server, the transport to it and the user to log in as; empty where none was given."""

    transport: str
    user: str
    address: Address


def parse_target(text: str) -> Target:
    """Return the server that `text` names. Raises UsageError.

    A literal IPv6 address stands in brackets, as in a URL (RFC 3986 §3.2.2).
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "quic", text
    if scheme not in ("quic", "ssh"):
        raise _malformed(text, f"there is no scheme {scheme!r}")
    transport, default_port = ("quic", QUIC_PORT) if scheme == "quic" else ("tcp", SSH_PORT)
    user, at, host_port = rest.rpartition("@")
    if at and not user:
        raise _malformed(text, "the user is empty")
    try:
        host, port = parse_host_port(host_port)
    except ValueError as error:
        raise _malformed(text, str(error)) from None
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise _malformed(text, f"{host!r} is not a host")
    return Target(transport, user, Address(host, port or default_port))


def parse_listen(text: str) -> Address:
    """Return where to listen: `host`, `host:port` or `[address]:port`. Raises UsageError."""
    try:
        host, port = parse_host_port(text)
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not a host")
    except ValueError as error:
        raise UsageError(
            f"cannot listen on {text!r}: {error}; write an address as 192.0.2.1:{QUIC_PORT}"
        ) from None
    return Address(host, port or QUIC_PORT)


def _malformed(text: str, why: str) -> UsageError:
    return UsageError(f"cannot read the target {text!r}: {why}; write {_FORMS}")
