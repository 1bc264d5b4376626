"""What a user writes to make ports and names of one side known to the other. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from dns.names import fold, from_text, host_name
from vpn.errors import UsageError


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of the command that is reachable on this machine."""

    address: str
    port: int
    inner_port: int


def parse_publication(text: str) -> Publication:
    """Return what `[ADDRESS:]PORT[:PORT]` means. Raises UsageError.

    The second port is the command's; without it both are the same. Without an address only this
    machine reaches it.
    """
    address, rest = "127.0.0.1", text
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        if not bracket:
            raise _bad_publication(text)
    elif text.count(":") and not text.partition(":")[0].isdigit():
        address, _, rest = text.partition(":")
    ports = rest.split(":")
    is_readable = len(ports) in (1, 2) and all(map(_is_port, ports))
    if address_of(address) is None or not is_readable:
        raise _bad_publication(text)
    return Publication(address, int(ports[0]), int(ports[-1]))


def _bad_publication(text: str) -> UsageError:
    return UsageError(f"cannot read --publish {text!r}: write [ADDRESS:]PORT[:PORT]")


def parse_host(text: str) -> tuple[str, tuple[str, int]]:
    """Return the name and the address and port of `NAME=ADDRESS[:PORT]`; no port is 0.

    Raises UsageError.
    """
    name, equals, rest = text.partition("=")
    address, port = rest, "0"
    if rest.startswith("["):
        address, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":") or "0"
    elif rest.count(":") == 1:
        address, _, port = rest.partition(":")
    try:
        host = host_name(fold(from_text(name)))
    except ValueError:
        host = None
    if not equals or not host or address_of(address) is None or not (port == "0" or _is_port(port)):
        raise UsageError(f"cannot read --host {text!r}: write NAME=ADDRESS[:PORT]")
    return host, (address, int(port))


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is, None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_destination(text: str) -> tuple[str, int]:
    """Return the host and port of `HOST[:PORT]` or `[ADDRESS]:PORT`; no port is 0.

    Raises UsageError where the host is neither a name nor an address.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        port = tail.removeprefix(":")
        is_whole = bool(bracket) and (not tail or (tail.startswith(":") and bool(port)))
    else:
        is_whole = True
        if text.count(":") == 1:
            host, _, port = text.partition(":")
            is_whole = bool(port)
    try:
        # A zone (RFC 4007 §11) names an interface, and so is a route already.
        host = str(ip_address(host)) if "%" not in host else ""
    except ValueError:
        try:
            host = host_name(from_text(host)) or ""
        except ValueError:
            host = ""
    if not is_whole or not host or not (port == "" or _is_port(port)):
        raise UsageError(
            f"cannot read {text!r}: write a name or an address, with a port as in name:443 or "
            "[2001:db8::1]:443"
        )
    return host, int(port or 0)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536
