"""The arguments of `--publish` and `--host`, and destinations, as users write them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from dns.names import fold, from_text, host_name
from vpn.endpoint import parse_bare_host_port, parse_port, split_host
from vpn.errors import UsageError


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of the command that is reachable at an address and port of this machine."""

    address: str
    port: int
    inner_port: int


def parse_publication(text: str) -> Publication:
    """Return what `[ADDRESS:]PORT[:PORT]` means. Raises UsageError.

    The second port is the command's; without it both are the same. Without an address only this
    machine reaches it.
    """
    has_address = not text.partition(":")[0].isdigit()
    try:
        address, ports = split_host(text if has_address else f"127.0.0.1:{text}")
        outer, _, inner = (ports or "").partition(":")
        publication = Publication(address, parse_port(outer), parse_port(inner or outer))
    except ValueError:
        raise _bad_publication(text) from None
    if address_of(address) is None or text.endswith(":"):
        raise _bad_publication(text)
    return publication


def _bad_publication(text: str) -> UsageError:
    return UsageError(f"cannot read --publish {text!r}: write [ADDRESS:]PORT[:PORT]")


def parse_host(text: str) -> tuple[str, tuple[str, int]]:
    """Return the name and the address and port of `NAME=ADDRESS[:PORT]`; no port is 0.

    The address is in its one form, however it was written. Raises UsageError.
    """
    name, equals, rest = text.partition("=")
    try:
        host = host_name(fold(from_text(name)))
        place, port = parse_bare_host_port(rest)
    except ValueError:
        host, place, port = None, "", None
    address = address_of(place)
    if not equals or not host or address is None:
        raise UsageError(f"cannot read --host {text!r}: write NAME=ADDRESS[:PORT]")
    return host, (str(address), port or 0)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return a host as an address, None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_destination(text: str) -> tuple[str, int]:
    """Return the host and port of `HOST[:PORT]` or `[ADDRESS]:PORT`; no port is 0.

    Raises UsageError where the host is neither a name nor an address.
    """
    try:
        host, port = parse_bare_host_port(text)
        return _canonical(host), port or 0
    except ValueError:
        raise UsageError(
            f"cannot read {text!r}: write a name or an address, with a port as in name:443 or "
            "[2001:db8::1]:443"
        ) from None


def _canonical(host: str) -> str:
    """Return the one text of a name or an address. Raises ValueError if it is neither."""
    if "%" in host:  # a zone (RFC 4007 §11) names an interface, and so is a route already
        raise ValueError("a zone")
    address = address_of(host)
    name = str(address) if address is not None else host_name(from_text(host))
    if not name:
        raise ValueError("not the name of a host")
    return name
