"""Links with their addresses and routes, and the diversion of flows to their listener.

The launcher, the flow namespace and `run` set up a network with it. The monitor does not load it.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.nfnetlink.nftsocket import Meta, Regs
from pyroute2.netlink.rtnl import rt_scope
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import NFTables

from shim.netlink.wrapper import FAMILIES, adopt, as_oserror, data_of, match_of
from shim.protocol import ROUTE_PROTOCOL
from shim.protocol.netfilter import INET, Test

TX_QUEUE_PACKETS: Final = 1000
MTU_BYTES: Final = 65535
"""As on the loopback device: both ends are kernels of this machine (docs/decisions/0001)."""

_PRIORITY_MANGLE: Final = -150
_ADDR_GEN_MODE_NONE: Final = 1
_NF_ACCEPT: Final = 1
_NF_DROP: Final = 0
_TCP_FLAGS: Final = 13


def families() -> tuple[int, ...]:
    """Return the versions of IP that the kernel has: 6 can be disabled (ipv6.disable=1)."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return (4,)
    return (4, 6)


class Interfaces:
    """The links of the network namespace of a netlink socket. Methods raise OSError."""

    def __init__(self, route: int | None = None) -> None:
        """`route` stays the caller's; without it, a socket of the current namespace is opened."""
        sock = None if route is None else adopt(route, socket.NETLINK_ROUTE)
        with as_oserror():
            self._ip: Any = IPRoute(use_socket=sock)

    def set_up(self, name: str, addresses: tuple[IPv4Address | IPv6Address, ...]) -> int:
        """Give a link its addresses, set it up, and return its index."""
        with as_oserror():
            index: int = self._ip.link_lookup(ifname=name)[0]
            for address in addresses:
                self._ip.addr(
                    "add",
                    index=index,
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                    family=FAMILIES[address.version],
                    **({"flags": IFA_F_NODAD} if address.version == 6 else {}),
                )
            self._ip.link("set", index=index, state="up")
        return index

    def move(self, name: str, netns: int) -> None:
        """Move a link to another network namespace, given as a descriptor (ip-link(8), netns)."""
        with as_oserror():
            index: int = self._ip.link_lookup(ifname=name)[0]
            self._ip.link("set", index=index, net_ns_fd=netns)

    def prepare(self, name: str) -> None:
        """Configure a TUN device before it is up: large MTU and queue, no link-local address.

        A link-local address would make the kernel look for routers behind it (RFC 4862 §5.3).
        """
        no_address = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]}
        with as_oserror():
            index = self._ip.link_lookup(ifname=name)[0]
            self._ip.link("set", index=index, mtu=MTU_BYTES, txqlen=TX_QUEUE_PACKETS)
        try:
            with as_oserror():
                self._ip.link(
                    "set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", no_address)]}
                )
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:  # as a kernel without IPv6 has it
                raise

    def add_default(self, index: int, table: int, source: IPv4Address | IPv6Address) -> None:
        """Add a default route to a link into `table`."""
        with as_oserror():
            self._ip.route(
                "add",
                family=FAMILIES[source.version],
                dst="default",
                oif=index,
                table=table,
                prefsrc=str(source),
                proto=ROUTE_PROTOCOL,
                scope=rt_scope["link"] if source.version == 4 else 0,
            )

    def deliver_locally(self, index: int, table: int) -> None:
        """Add a local default route to a link into `table`, and the rule that uses it."""
        with as_oserror():
            for family in map(FAMILIES.__getitem__, families()):
                self._ip.route(
                    "add",
                    family=family,
                    type="local",
                    dst="default",
                    oif=index,
                    table=table,
                    scope=rt_scope["host"] if family == socket.AF_INET else 0,
                )
                self._ip.rule("add", family=family, iifname="flow0", table=table, priority=100)

    def close(self) -> None:
        """Close the socket."""
        self._ip.close()


def divert_tcp(port: int) -> None:
    """Hand all TCP that comes in to the transparent listener on `port` (nft(8), TPROXY).

    For both families, in a table of this network namespace: `meta l4proto tcp tproxy to :port`.
    No connection starts here, `tcp flags & (fin|syn|rst|ack) == syn drop`: with the socket of a
    flow, a process could otherwise connect from any address to the application of the flow.
    """
    with as_oserror(), NFTables(nfgen_family=INET) as nft:
        names = {"table": "overlay", "chain": "divert"}
        nft.table("add", name=names["table"])
        for chain, hook in ((names["chain"], "prerouting"), ("connect", "output")):
            nft.chain(
                "add",
                table=names["table"],
                name=chain,
                hook=hook,
                type="filter",
                policy=_NF_ACCEPT,
                priority=_PRIORITY_MANGLE,
            )
        register = Regs.NFT_REG_1
        divert = [
            genex("immediate", {"dreg": register, "data": data_of(struct.pack("!H", port))}),
            # A family of 0 (the value of NFT_REG_VERDICT) is NFPROTO_UNSPEC: both.
            genex("tproxy", {"family": Regs.NFT_REG_VERDICT, "reg_port": register}),
        ]
        tcp = Test("meta", Meta.NFT_META_L4PROTO, bytes([socket.IPPROTO_TCP]))
        nft.rule("add", **names, expressions=(match_of(tcp), divert, verdict(_NF_ACCEPT)))
        syn = Test("transport", _TCP_FLAGS, b"\x02", b"\x17")
        names["chain"] = "connect"
        nft.rule("add", **names, expressions=(match_of(tcp), match_of(syn), verdict(_NF_DROP)))
