"""The D-Bus calls to systemd-resolved and NetworkManager, as data. Pure.

Source: org.freedesktop.resolve1(5); the reference of NetworkManager's D-Bus interface.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any, Final

from shim.protocol import DEVICE, GATEWAY4, POOL4, POOL6

RESOLVED: Final = "org.freedesktop.resolve1"
NETWORK_MANAGER: Final = "org.freedesktop.NetworkManager"

_RESOLVED_PATH: Final = "/org/freedesktop/resolve1"
_RESOLVED_MANAGER: Final = f"{RESOLVED}.Manager"
_MANAGER_PATH: Final = "/org/freedesktop/NetworkManager"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"

UNKNOWN: Final = (
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.NotSupported",
)
"""The errors of a service that is older than a method, or was built without it."""
DENIED: Final = (
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.AuthFailed",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    f"{NETWORK_MANAGER}.PermissionDenied",
)
UNKNOWN_DEVICE: Final = f"{NETWORK_MANAGER}.UnknownDevice"


@dataclass(frozen=True, slots=True)
class Call:
    """A method call. With `may_lack`, a service that does not know it is no failure."""

    service: str
    path: str
    interface: str
    method: str
    signature: str
    arguments: tuple[Any, ...]
    may_lack: bool = False


def set_up(link: int, suffixes: tuple[str, ...]) -> list[Call]:
    """Have names below `suffixes`, or all names, resolved through the link of this index.

    All domains are routing-only: none is appended to a single-label name. The server comes last: a
    link without one is not used. Everything that could not be captured is off: LLMNR and multicast
    DNS, DNS over TLS to a resolver on this machine, and DNSSEC, as virtual addresses are unsigned.
    """
    domains = [*suffixes, *_reverse_zones()] if suffixes else ["."]
    off = ("SetLinkLLMNR", "SetLinkMulticastDNS", "SetLinkDNSOverTLS", "SetLinkDNSSEC")
    server = socket.inet_aton(GATEWAY4)
    return [
        *(_resolved(method, "is", link, "no", may_lack=True) for method in off),
        _resolved("SetLinkDefaultRoute", "ib", link, not suffixes, may_lack=True),
        _resolved("SetLinkDomains", "ia(sb)", link, [(domain, True) for domain in domains]),
        _resolved("SetLinkDNS", "ia(iay)", link, [(int(socket.AF_INET), server)]),
        # Cached addresses are those outside the tunnel.
        _resolved("FlushCaches", "", may_lack=True),
    ]


def revert(link: int) -> list[Call]:
    """Undo `set_up`."""
    return [_resolved("RevertLink", "i", link)]


def find_device() -> Call:
    """Look up the object of NetworkManager for the capture TUN."""
    return Call(
        NETWORK_MANAGER, _MANAGER_PATH, NETWORK_MANAGER, "GetDeviceByIpIface", "s", (DEVICE,)
    )


def leave_alone(device: str) -> Call:
    """Have NetworkManager leave a link, given by its object path, unmanaged until it goes."""
    value = (f"{NETWORK_MANAGER}.Device", "Managed", ("b", False))
    return Call(NETWORK_MANAGER, device, _PROPERTIES, "Set", "ssv", value)


def _resolved(method: str, signature: str, *arguments: Any, may_lack: bool = False) -> Call:
    return Call(RESOLVED, _RESOLVED_PATH, _RESOLVED_MANAGER, method, signature, arguments, may_lack)


def _reverse_zones() -> list[str]:
    """Return the zones of the names of virtual addresses (RFC 1035 §3.5, RFC 3596 §2.5)."""
    zones = []
    for pool, digit_bits in ((POOL4, 8), (POOL6, 4)):
        network = ipaddress.ip_network(pool)
        step = -(-network.prefixlen // digit_bits) * digit_bits
        for part in network.subnets(new_prefix=step):
            labels = part.network_address.reverse_pointer.split(".")
            skipped = (network.max_prefixlen - step) // digit_bits
            zones.append(".".join(labels[skipped:]))
    return zones
