"""Links, addresses, routes, rules and the one nftables rule, through pyroute2.

The only file of the monitor that imports pyroute2. Nothing here decides anything: the plan is
data (`plan.py`), and whatever the kernel refuses is raised as OSError with its errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import NFTables

from shim.monitor.plan import PROTOCOL, Rule

TX_QUEUE_PACKETS: Final = 1000
MTU_BYTES: Final = 65535
"""As on the loopback device: both ends are kernels of this machine (docs/decisions/0001)."""

_IFA_F_NODAD: Final = 0x02
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_HOST: Final = 254
_FR_ACT_TO_TBL: Final = 1
_FR_ACT_GOTO: Final = 2
_FR_ACT_NOP: Final = 3
_NFPROTO_INET: Final = 1
_NF_ACCEPT: Final = 1
_PRIORITY_MANGLE: Final = -150
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


class Netlink:
    """A netlink socket in the network namespace in which it was made."""

    def __init__(self) -> None:
        with _as_oserror():
            self._ip: Any = IPRoute()

    def set_up(self, name: str, addresses: tuple[IPv4Address | IPv6Address, ...]) -> int:
        """Give a link its addresses, set it up, and return its index."""
        with _as_oserror():
            index: int = self._ip.link_lookup(ifname=name)[0]
            for address in addresses:
                self._ip.addr(
                    "add",
                    index=index,
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                    family=_FAMILIES[address.version],
                    **({"flags": _IFA_F_NODAD} if address.version == 6 else {}),
                )
            self._ip.link("set", index=index, state="up")
        return index

    def size(self, index: int) -> None:
        """Give a TUN device packets as large as they come, and a queue for a burst of them."""
        with _as_oserror():
            self._ip.link("set", index=index, mtu=MTU_BYTES, txqlen=TX_QUEUE_PACKETS)

    def add_default(self, index: int, table: int, source: IPv4Address | IPv6Address) -> None:
        """Route everything that looks into `table` to a link."""
        with _as_oserror():
            self._ip.route(
                "add",
                family=_FAMILIES[source.version],
                dst="default",
                oif=index,
                table=table,
                prefsrc=str(source),
                proto=PROTOCOL,
                scope=_RT_SCOPE_LINK if source.version == 4 else 0,
            )

    def deliver_locally(self, index: int, table: int) -> None:
        """Treat every address as one of this machine's, for packets that look into `table`."""
        with _as_oserror():
            for family in _FAMILIES.values():
                self._ip.route(
                    "add",
                    family=family,
                    type="local",
                    dst="default",
                    oif=index,
                    table=table,
                    scope=_RT_SCOPE_HOST if family == socket.AF_INET else 0,
                )
                self._ip.rule("add", family=family, iifname="flow0", table=table, priority=100)

    def add_rule(self, rule: Rule) -> None:
        """Add a rule. One that is there already is an error: it is not ours."""
        with _as_oserror():
            self._ip.rule("add", **_attributes(rule))

    def delete_rule(self, rule: Rule) -> None:
        """Delete a rule, if it is there."""
        try:
            with _as_oserror():
                self._ip.rule("delete", **_attributes(rule))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT):
                raise

    def close(self) -> None:
        """Close the socket."""
        self._ip.close()


def _attributes(rule: Rule) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "family": _FAMILIES[rule.family],
        "priority": rule.priority,
        "protocol": PROTOCOL,
        "action": _FR_ACT_NOP,
    }
    if rule.table:
        attributes |= {"action": _FR_ACT_TO_TBL, "table": rule.table}
    if rule.goto:
        attributes |= {"action": _FR_ACT_GOTO, "goto": rule.goto}
    for key, prefix in (("src", rule.source), ("dst", rule.destination)):
        if prefix:
            network = ip_network(prefix)
            attributes |= {key: str(network.network_address), f"{key}_len": network.prefixlen}
    if rule.mark:
        attributes |= {"fwmark": rule.mark, "fwmask": 0xFFFFFFFF}
    if rule.local:
        attributes["iifname"] = "lo"
    if rule.port:
        attributes |= {"ip_proto": rule.protocol, "dport_range": f"{rule.port}:{rule.port}"}
    if rule.without_default:
        attributes["FRA_SUPPRESS_PREFIXLEN"] = 0
    return attributes


def divert_tcp(port: int) -> None:
    """Hand all TCP that comes in to the transparent listener on `port` (nft(8), TPROXY).

    For both families, in a table of this network namespace: `meta l4proto tcp tproxy to :port`.
    """
    with _as_oserror():
        nft: Any = NFTables(nfgen_family=_NFPROTO_INET)
        names = {"table": "overlay", "chain": "divert"}
        nft.table("add", name=names["table"])
        nft.chain(
            "add",
            table=names["table"],
            name=names["chain"],
            hook="prerouting",
            type="filter",
            policy=_NF_ACCEPT,
            priority=_PRIORITY_MANGLE,
        )
        register = Regs.NFT_REG_1
        tcp = {"attrs": [("NFTA_DATA_VALUE", bytes([socket.IPPROTO_TCP]))]}
        to = {"attrs": [("NFTA_DATA_VALUE", struct.pack("!H", port))]}
        match = [
            genex("meta", {"dreg": register, "key": Meta.NFT_META_L4PROTO}),
            genex("cmp", {"sreg": register, "op": Cmp.NFT_CMP_EQ, "data": tcp}),
        ]
        divert = [
            genex("immediate", {"dreg": register, "data": to}),
            # A family of 0 (the value of NFT_REG_VERDICT) is NFPROTO_UNSPEC: both.
            genex("tproxy", {"family": Regs.NFT_REG_VERDICT, "reg_port": register}),
        ]
        nft.rule("add", **names, expressions=(match, divert, verdict(_NF_ACCEPT)))
        nft.close()
