"""The changes of `shim.netlink.changes`, made and reverted in the kernel.

Nothing is decided here, and whatever the kernel refuses is raised as OSError with its errno.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.nfnetlink import nftsocket as nf
from pyroute2.nftables.expressions import verdict
from pyroute2.nftables.main import AsyncNFTables, NFTables, NFTSet, NFTSetElem

from shim.netlink.changes import TABLE, Change, KillSwitch, Rule, Unreachable
from shim.netlink.wrapper import FAMILIES, NETLINK_NETFILTER, adopt, as_oserror, match_of
from shim.protocol import ROUTE_PROTOCOL
from shim.protocol.netfilter import ARP, INET, PAUSED, PROTOCOLS, Chain, Chains

SYSCALLS: Final = frozenset({"epoll_wait", "getpid", "recvfrom", "sendto"})
"""Those of a request; `Netlink` itself is created before a filter is installed.

asyncio calls getpid(2) before Python 3.12, and a logger does for each record.
"""

_FR_ACT_TO_TBL: Final = 1
_FR_ACT_GOTO: Final = 2
_FR_ACT_NOP: Final = 3

_ABSENT: Final = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT)
"""How the kernel says that a rule, a route or a table is not there, or cannot be."""
_LAST: Final = 0xFFFFFFFF
"""The metric of a route that is asked after all others."""


class _NFTables(NFTables):  # type: ignore[misc]
    """Over a socket that is there already, as IPRoute can be (pyroute2 0.9.7)."""

    def __init__(self, family: int, sock: socket.socket) -> None:
        self.asyncore = core = AsyncNFTables(nfgen_family=family)
        core.use_socket = sock
        core.local.keep_event_loop = True
        core.event_loop.run_until_complete(core.setup_endpoint())


class Netlink:
    """The network namespace of two netlink sockets, which stay the caller's; it opens none."""

    def __init__(self, route: int, netfilter: int, filters: Sequence[Chains] = ()) -> None:
        """`filters` are those of a kill switch without and with the local network."""
        self._filters = filters
        with as_oserror():
            self._ip: Any = IPRoute(use_socket=adopt(route, socket.NETLINK_ROUTE))
            self._nft: dict[int, Any] = {
                family: _NFTables(family, adopt(netfilter, NETLINK_NETFILTER))
                for family in (INET, ARP)
            }

    def make(self, change: Change) -> None:
        """Make a change. One that is there already is an error: it is not ours."""
        with as_oserror():
            match change:
                case Rule():
                    self._ip.rule("add", **_rule(change))
                case Unreachable(family):
                    self._ip.route("add", **_unreachable(family))
                case KillSwitch(name, lan):
                    _make_kill_switch(self._nft, name, self._filters[lan])

    def revert(self, change: Change) -> None:
        """Undo a change, if it is there."""
        match change:
            case Rule():
                with as_oserror(*_ABSENT):
                    self._ip.rule("delete", **_rule(change))
            case Unreachable(family):
                with as_oserror(*_ABSENT):
                    self._ip.route("delete", **_unreachable(family))
            case KillSwitch(name, _):
                for nft in self._nft.values():
                    with as_oserror(*_ABSENT):
                        nft.table("del", name=name)

    def pause(self, switch: KillSwitch, seconds: int) -> None:
        """Let everything pass for a while; the kernel ends it (nft(8), timeout). 0 ends it now."""
        each = [NFTSetElem(value, timeout=seconds * 1000) for value in PROTOCOLS.values()]
        elements = {"elements": [element.as_netlink(None) for element in each]}
        of: dict[str, Any] = {"table": switch.name, "set": PAUSED}
        nft = self._nft[INET]
        with as_oserror():
            # Without elements: all of them.
            _command(nft, nf.nft_set_elem_list_msg, "del", nf.NFT_MSG_DELSETELEM, of)
            if seconds:
                of |= elements
                _command(nft, nf.nft_set_elem_list_msg, "add", nf.NFT_MSG_NEWSETELEM, of)


def _rule(rule: Rule) -> dict[str, Any]:
    attributes: dict[str, Any] = {"family": FAMILIES[rule.family], "priority": rule.priority}
    attributes |= {"protocol": ROUTE_PROTOCOL, "action": _FR_ACT_NOP}
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
    if rule.incoming:
        attributes["iifname"] = rule.incoming
    if rule.port:
        attributes |= {"ip_proto": rule.protocol, "dport_range": f"{rule.port}:{rule.port}"}
    if rule.source_port:
        attributes["sport_range"] = f"{rule.source_port}:{rule.source_port}"
    if rule.without_default:
        attributes["FRA_SUPPRESS_PREFIXLEN"] = 0
    return attributes


def _unreachable(family: int) -> dict[str, Any]:
    where = {"family": FAMILIES[family], "table": TABLE, "dst": "default", "priority": _LAST}
    return {**where, "type": "unreachable", "proto": ROUTE_PROTOCOL}


def _make_kill_switch(nfts: dict[int, Any], name: str, filters: Chains) -> None:
    for family, nft in nfts.items():
        nft.table("create", name=name)
        if family == INET:
            paused = NFTSet(name, PAUSED, key_type="nf_proto", timeout=1).as_netlink()
            _command(nft, nf.nft_set_msg, "add", nf.NFT_MSG_NEWSET, paused)
        for chain in filters:
            if chain.family == family:
                _make_chain(nft, name, chain)


def _make_chain(nft: Any, table: str, chain: Chain) -> None:
    of = {"table": table}
    nft.chain("add", **of, name=chain.hook, hook=chain.hook, policy=int(chain.accept))
    for tests, accept in chain.lines:
        matches = [match_of(test) for test in tests]
        nft.rule("add", **of, chain=chain.hook, expressions=(*matches, verdict(int(accept))))


def _command(nft: Any, message: Any, verb: str, number: int, attributes: dict[str, Any]) -> None:
    # NFTables.sets() raises TypeError after it has done its work (pyroute2 0.9.7).
    nft._command(message, {verb: number}, verb, dict(attributes))
