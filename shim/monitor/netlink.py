"""Links, addresses, routes, rules and nftables, through pyroute2.

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
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELSETELEM,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    Cmp,
    Meta,
    Regs,
    nft_set_elem_list_msg,
    nft_set_msg,
)
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import NFTables, NFTSet, NFTSetElem

from shim.monitor.guard import ARP, INET, PAUSED, PROTOCOLS, Chain, Test, chains
from shim.monitor.plan import PROTOCOL, TABLE, Change, Guard, Rule, Unreachable

SYSCALLS: Final = frozenset({"epoll_wait", "getpid", "recvfrom", "sendto"})
"""What a request needs; making the socket needs more."""

TX_QUEUE_PACKETS: Final = 1000
MTU_BYTES: Final = 65535
"""As on the loopback device: both ends are kernels of this machine (docs/decisions/0001)."""

_IFA_F_NODAD: Final = 0x02
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_HOST: Final = 254
_FR_ACT_TO_TBL: Final = 1
_FR_ACT_GOTO: Final = 2
_FR_ACT_NOP: Final = 3
_NF_ACCEPT: Final = 1
_NF_DROP: Final = 0
_TCP_FLAGS: Final = 13
_PRIORITY_MANGLE: Final = -150
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


_LAST: Final = 0xFFFFFFFF
"""The metric of a route that is asked after all others."""


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        with _as_oserror():
            yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT):
            raise


class Netlink:
    """The netlink sockets of the network namespace in which it was made; it opens no more later."""

    def __init__(self) -> None:
        with _as_oserror():
            self._ip: Any = IPRoute()
            self._nft: dict[int, Any] = {
                family: NFTables(nfgen_family=family) for family in (INET, ARP)
            }

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

    def make(self, change: Change) -> None:
        """Make a change. One that is there already is an error: it is not ours."""
        with _as_oserror():
            match change:
                case Rule():
                    self._ip.rule("add", **_rule(change))
                case Unreachable(family):
                    self._ip.route("add", **_unreachable(family))
                case Guard(name, lan):
                    _make_guard(self._nft, name, chains(lan))

    def revert(self, change: Change) -> None:
        """Undo a change, if it is there."""
        match change:
            case Rule():
                with _if_there():
                    self._ip.rule("delete", **_rule(change))
            case Unreachable(family):
                with _if_there():
                    self._ip.route("delete", **_unreachable(family))
            case Guard(name, _):
                for nft in self._nft.values():
                    with _if_there():
                        nft.table("del", name=name)

    def pause(self, guard: Guard, seconds: int) -> None:
        """Let everything pass for a while; the kernel ends it (nft(8), timeout). 0 ends it now."""
        each = [NFTSetElem(value, timeout=seconds * 1000) for value in PROTOCOLS.values()]
        elements = [element.as_netlink(None) for element in each]
        of: dict[str, Any] = {"table": guard.name, "set": PAUSED}
        nft = self._nft[INET]
        with _as_oserror():
            # Without elements: all of them.
            _command(nft, nft_set_elem_list_msg, "del", NFT_MSG_DELSETELEM, of)
            if seconds:
                of |= {"elements": elements}
                _command(nft, nft_set_elem_list_msg, "add", NFT_MSG_NEWSETELEM, of)

    def close(self) -> None:
        """Close the sockets."""
        for sock in (self._ip, *self._nft.values()):
            sock.close()


def _rule(rule: Rule) -> dict[str, Any]:
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
    if rule.source_port:
        attributes["sport_range"] = f"{rule.source_port}:{rule.source_port}"
    if rule.without_default:
        attributes["FRA_SUPPRESS_PREFIXLEN"] = 0
    return attributes


def _unreachable(family: int) -> dict[str, Any]:
    return {
        "family": _FAMILIES[family],
        "type": "unreachable",
        "dst": "default",
        "table": TABLE,
        "proto": PROTOCOL,
        "priority": _LAST,
    }


def _make_guard(nfts: dict[int, Any], name: str, filters: tuple[Chain, ...]) -> None:
    for family, nft in nfts.items():
        nft.table("create", name=name)
        if family == INET:
            paused = NFTSet(name, PAUSED, key_type="nf_proto", timeout=1).as_netlink()
            _command(nft, nft_set_msg, "add", NFT_MSG_NEWSET, paused)
        for chain in filters:
            if chain.family == family:
                _make_chain(nft, name, chain)


def _make_chain(nft: Any, table: str, chain: Chain) -> None:
    of = {"table": table}
    nft.chain("add", **of, name=chain.hook, hook=chain.hook, policy=int(chain.accept))
    for tests, accept in chain.lines:
        matches = [_match(test) for test in tests]
        nft.rule("add", **of, chain=chain.hook, expressions=(*matches, verdict(int(accept))))


def _match(test: Test) -> list[Any]:
    """Load the field, mask it, compare it (linux/netfilter/nf_tables.h)."""
    register, size = Regs.NFT_REG_1, len(test.value)
    if test.of in ("meta", "paused"):
        match = [genex("meta", {"dreg": register, "key": test.at})]
    else:
        base = 1 if test.of == "network" else 2
        where = {"base": base, "offset": test.at, "len": size}
        match = [genex("payload", {"dreg": register, **where})]
    if test.of == "paused":
        return [*match, genex("lookup", {"set": PAUSED, "sreg": register})]
    if test.mask:
        by = {"len": size, "mask": _data(test.mask), "xor": _data(bytes(size))}
        match.append(genex("bitwise", {"sreg": register, "dreg": register, **by}))
    equal = {"sreg": register, "op": Cmp.NFT_CMP_EQ, "data": _data(test.value)}
    return [*match, genex("cmp", equal)]


def _data(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _command(nft: Any, message: Any, verb: str, number: int, attributes: dict[str, Any]) -> None:
    # NFTables.sets() raises TypeError after it has done its work (pyroute2 0.9.7).
    nft._command(message, {verb: number}, verb, dict(attributes))


def divert_tcp(port: int) -> None:
    """Hand all TCP that comes in to the transparent listener on `port` (nft(8), TPROXY).

    For both families, in a table of this network namespace: `meta l4proto tcp tproxy to :port`.
    Nobody connects from here, `tcp flags & (fin|syn|rst|ack) == syn drop`: whoever is given the
    socket of a flow could otherwise make another of it, from any address, to whom the flow is from.
    """
    with _as_oserror(), NFTables(nfgen_family=INET) as nft:
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
            genex("immediate", {"dreg": register, "data": _data(struct.pack("!H", port))}),
            # A family of 0 (the value of NFT_REG_VERDICT) is NFPROTO_UNSPEC: both.
            genex("tproxy", {"family": Regs.NFT_REG_VERDICT, "reg_port": register}),
        ]
        tcp = Test("meta", Meta.NFT_META_L4PROTO, bytes([socket.IPPROTO_TCP]))
        nft.rule("add", **names, expressions=(_match(tcp), divert, verdict(_NF_ACCEPT)))
        syn = Test("transport", _TCP_FLAGS, b"\x02", b"\x17")
        names["chain"] = "connect"
        nft.rule("add", **names, expressions=(_match(tcp), _match(syn), verdict(_NF_DROP)))
