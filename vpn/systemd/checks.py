"""The checks of the installed units, drop-ins included: one line for each problem."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from dns import resolv_conf
from vpn.config.target import parse_target
from vpn.errors import UsageError
from vpn.systemd import closure
from vpn.systemd.installer import Place
from vpn.systemd.units import UNITS, Unit

_SPECIAL: Final = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}
"""The names of systemd.resource-control(5) for networks."""


def problems(place: Place, kind: str) -> list[str]:
    """Return the problems that keep a service from starting or from working.

    Raises ConfigurationError if a unit cannot be read, OverlayError if they cannot be checked.
    """
    found: list[str] = []
    for name in UNITS[kind]:
        unit = place.read(name)
        found += of_interpreter(name, unit)
        if not found and unit.has_root:
            found += of_root(name, unit, closure.needs())
        found += of_credentials(name, unit, place)
        found += of_resolvers(name, unit, _resolvers(place.of(Path("/etc/resolv.conf"))))
        found += of_server(name, unit, _addresses(os.environ.get("TARGET", "")))
    return found


def of_interpreter(name: str, unit: Unit) -> Iterator[str]:
    """Yield a problem if the unit runs another interpreter, or one that is gone."""
    python = unit.interpreter
    if python in (None, closure.interpreter()):
        return
    if os.access(python, os.X_OK):
        yield f"{name} runs {python}: run '{python} -I -m vpn.cli.main service check'"
    else:
        yield f"{name} runs {python}, which is not there: run 'overlay-vpn service install'"


def of_root(name: str, unit: Unit, needs: list[closure.Need]) -> Iterator[str]:
    """Yield each path that has to be bound, with what needs it."""
    binds, told = unit.binds, set()
    for need in needs:
        path = closure.missing(need.path, binds)
        if path is not None and path not in told:
            told.add(path)
            yield (
                f"{path} is not in the root of {name}: {need.reason}; add "
                f"'BindReadOnlyPaths={path}', or run 'overlay-vpn service install'"
            )


def of_credentials(name: str, unit: Unit, place: Place) -> Iterator[str]:
    """Yield each credential that systemd cannot read before the start."""
    for path in unit.credentials:
        with suppress(PermissionError):  # it is not ours to read, but systemd's
            if not place.of(Path(path)).exists():
                yield f"{path} is not there: {name} loads it; see 'man overlay-vpn'"


def of_resolvers(name: str, unit: Unit, resolvers: Iterable[str]) -> Iterator[str]:
    """Yield each resolver that IPAddressAllow= of a unit leaves out."""
    for resolver in _denied(unit, resolvers):
        yield (
            f"the resolver {resolver} may not be asked by {name}: add "
            f"'IPAddressAllow={resolver}' to a drop-in"
        )


def of_server(name: str, unit: Unit, addresses: Iterable[str]) -> Iterator[str]:
    """Yield each address of the server that IPAddressAllow= of a unit leaves out."""
    for address in _denied(unit, addresses):
        yield (
            f"the server {address} may not be reached by {name}: add "
            f"'IPAddressAllow={address}' to a drop-in"
        )


def _denied(unit: Unit, addresses: Iterable[str]) -> Iterator[str]:
    words = unit.words("IPAddressAllow")
    allowed: list[IPv4Network | IPv6Network] = []
    for prefix in (net for word in words for net in _SPECIAL.get(word, (word,))):
        with suppress(ValueError):  # systemd says that it is none, and goes on
            allowed.append(ip_network(prefix, strict=False))
    for text in addresses if words else ():
        address = ip_address(text.partition("%")[0])
        if not any(address in network for network in allowed):
            yield text


def _addresses(target: str) -> list[str]:
    """Return those of the server that an instance of the client is for (systemd.exec(5)).

    One whose name is not known now says so itself when it starts.
    """
    try:
        host = parse_target(target).address.host
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, UsageError):
        return []
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))


def _resolvers(path: Path) -> tuple[str, ...]:
    try:
        return resolv_conf.parse(path.read_text()).servers
    except OSError:
        return ()
