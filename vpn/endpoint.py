"""Hosts and ports as users write them: `host:port`, with an IPv6 address in brackets. Pure.

The syntax is that of the authority of a URL (RFC 3986 §3.2): a host ends at the first colon outside
brackets. Errors are ValueErrors of a few words, to which the caller adds what was being read.
What a host may be is for the caller to check: a zone (`fe80::1%eth0`, RFC 4007 §11) is kept.
"""

from __future__ import annotations

from typing import Final

MAX_PORT: Final = 65535
SSH_PORT: Final = 22


def split_host(text: str) -> tuple[str, str | None]:
    """Return the host without brackets, and what follows its colon; None if there is no colon."""
    if not text.startswith("["):
        host, colon, rest = text.partition(":")
        return host, rest if colon else None
    host, bracket, rest = text[1:].partition("]")
    if not bracket or (rest and not rest.startswith(":")):
        raise ValueError("the brackets do not match")
    return host, rest[1:] if rest else None


def split_bare_host(text: str) -> tuple[str, str | None]:
    """Do as `split_host`, but take what has two colons and no brackets for a host alone."""
    is_bare = text.count(":") > 1 and not text.startswith("[")
    return (text, None) if is_bare else split_host(text)


def parse_port(text: str) -> int:
    """Return a port, 1 to 65535, from its decimal digits (RFC 6335 §6 reserves 0)."""
    if text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= MAX_PORT:
        return int(text)
    raise ValueError(f"{text!r} is not a port")


def parse_host_port(text: str) -> tuple[str, int | None]:
    """Return the host of `host[:port]`, and its port or None. An IPv6 address needs brackets."""
    host, port = split_host(text)
    if port is None:
        return host, None
    if ":" in port and not text.startswith("["):
        raise ValueError("an IPv6 address needs brackets")
    return host, parse_port(port)


def parse_bare_host_port(text: str) -> tuple[str, int | None]:
    """Do as `parse_host_port`, but take an IPv6 address without a port without brackets too."""
    host, port = split_bare_host(text)
    return host, None if port is None else parse_port(port)


def join_host_port(host: str, port: int) -> str:
    """Return a host and a port as users write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def known_hosts_name(host: str, port: int) -> str:
    """Return a host and a port as known_hosts has them (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return host if port == SSH_PORT else f"[{host}]:{port}"
