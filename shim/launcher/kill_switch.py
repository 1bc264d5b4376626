"""The kill switch: a packet filter, as data. Pure.

Theory of operation
-------------------
Packets leave this machine through the tunnel only, except those of marked outer sockets, of the
loopback device, of DHCP and of neighbour discovery, without which no link would work. The local
network is a choice. Everything else is dropped, also from a socket that is bound to a device, which
no routing rule stops: the kernel then takes any address to be on link.

A packet that comes in for an address of the tunnel from elsewhere is dropped, and ARP requests for
such an address are not answered, so that a neighbour cannot even learn that it exists.

The launcher sends it to the monitor before that reads the client. The tables outlive every
process of ours. A pause is an element of a set that expires by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from shim.monitor.plan import DHCP
from shim.netlink.changes import Family
from shim.protocol import DEVICE, LAN, MARK, POOL4, POOL6
from shim.protocol.netfilter import ARP, INET, PROTOCOLS, Chain, Line, Test

# linux/netfilter/nf_tables.h: enum nft_meta_keys
_MARK: Final = 3
_IIFNAME: Final = 6
_OIFNAME: Final = 7
_NFPROTO: Final = 15
_L4PROTO: Final = 16

_TCP: Final = b"\x06"
_UDP: Final = b"\x11"
_ICMPV6: Final = b"\x3a"
_DNS: Final = struct.pack("!H", 53)
_NEIGHBOURS: Final = (131, 132, 133, 135, 136, 143)
"""Reports of group membership, router and neighbour solicitation, and its answer (RFC 4861)."""

_SOURCE: Final = {4: 12, 6: 8}
_DESTINATION: Final = {4: 16, 6: 24}
_ARP_TARGET: Final = 24
_MULTICAST: Final = {4: ("224.0.0.0/4", "255.255.255.255/32"), 6: ("ff00::/8",)}


def chains(lan: bool) -> tuple[Chain, ...]:
    """Return the filter; `lan` leaves the local network reachable."""
    local = tuple(_local()) if lan else ()
    return (
        Chain(INET, "output", False, (*_ways_out(), *_basics(), *local)),
        Chain(INET, "forward", False, ((_device(_IIFNAME, DEVICE), True), *_ways_out(), *local)),
        Chain(INET, "input", True, tuple(_from_outside())),
        # In a table for ARP the first hook is that of what comes in.
        Chain(ARP, "prerouting", True, (((_prefix(_ARP_TARGET, POOL4),), False),)),
    )


def _ways_out() -> Iterator[Line]:
    yield _device(_OIFNAME, "lo"), True
    yield _device(_OIFNAME, DEVICE), True
    yield (Test("meta", _MARK, struct.pack("=I", MARK)),), True
    # A flow of the tunnel must never continue outside of it, also during a pause.
    for family, pool in _pools():
        yield (_family(family), _prefix(_SOURCE[family], pool)), False
    yield (Test("paused", _NFPROTO),), True
    # A resolver of the local network is one, too: names are asked through the tunnel only.
    for protocol in (_UDP, _TCP):
        yield (Test("meta", _L4PROTO, protocol), Test("transport", 2, _DNS)), False


def _basics() -> Iterator[Line]:
    for family, ports in DHCP.items():
        is_dhcp = Test("transport", 0, struct.pack("!HH", *ports))
        yield (_family(family), Test("meta", _L4PROTO, _UDP), is_dhcp), True
    for kind in _NEIGHBOURS:
        yield (Test("meta", _L4PROTO, _ICMPV6), Test("transport", 0, bytes([kind]))), True


def _local() -> Iterator[Line]:
    for family, prefixes in LAN.items():
        for prefix in (*prefixes, *_MULTICAST[family]):
            yield (_family(family), _prefix(_DESTINATION[family], prefix)), True


def _from_outside() -> Iterator[Line]:
    yield _device(_IIFNAME, "lo"), True
    yield _device(_IIFNAME, DEVICE), True
    for family, pool in _pools():
        yield (_family(family), _prefix(_DESTINATION[family], pool)), False


def _pools() -> tuple[tuple[Family, str], ...]:
    return (4, POOL4), (6, POOL6)


def _device(key: int, name: str) -> tuple[Test, ...]:
    return (Test("meta", key, name.encode().ljust(16, b"\0")),)


def _family(family: Family) -> Test:
    return Test("meta", _NFPROTO, PROTOCOLS[family])


def _prefix(offset: int, prefix: str) -> Test:
    network = ip_network(prefix)
    return Test("network", offset, network.network_address.packed, network.netmask.packed)
