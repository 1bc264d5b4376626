"""Rules, routes and nftables, through pyroute2.

The only file of the monitor that imports pyroute2. Nothing here decides anything: the plan is
data (`shim.monitor.plan`), and whatever the kernel refuses is raised as OSError with its errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nf
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import AsyncNFTables, NFTables, NFTSet, NFTSetElem

from shim.monitor.plan import TABLE, Change, Guard, Rule, Unreachable
from shim.protocol import ROUTE_PROTOCOL
from shim.protocol.launcher import ARP, INET, PAUSED, PROTOCOLS, Chain, Chains, Test

SYSCALLS: Final = frozenset({"epoll_wait", "getpid", "recvfrom", "sendto"})
"""What a request needs; taking the sockets over needs more."""

_FR_ACT_TO_TBL: Final = 1
_FR_ACT_GOTO: Final = 2
_FR_ACT_NOP: Final = 3
NETLINK_NETFILTER: Final = 12
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

_LAST: Final = 0xFFFFFFFF
"""The metric of a route that is asked after all others."""


@contextlib.contextmanager
def as_oserror() -> Iterator[None]:
    """Raise what the kernel refuses as OSError."""
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        with as_oserror():
            yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT):
            raise


def adopt(fd: int, protocol: int) -> socket.socket:
    """Return a netlink socket for pyroute2, which believes in datagrams (netlink(7): the same)."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, protocol, os.dup(fd))


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
        """`filters` are those of a guard without and with the local network."""
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
                case Guard(name, lan):
                    _make_guard(self._nft, name, self._filters[lan])

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
        elements = {"elements": [element.as_netlink(None) for element in each]}
        of: dict[str, Any] = {"table": guard.name, "set": PAUSED}
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


def _make_guard(nfts: dict[int, Any], name: str, filters: Chains) -> None:
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


def match_of(test: Test) -> list[Any]:
    """Load the field, mask it, compare it (linux/netfilter/nf_tables.h)."""
    register, size = nf.Regs.NFT_REG_1, len(test.value)
    if test.of in ("meta", "paused"):
        match = [genex("meta", {"dreg": register, "key": test.at})]
    else:
        base = 1 if test.of == "network" else 2
        where = {"base": base, "offset": test.at, "len": size}
        match = [genex("payload", {"dreg": register, **where})]
    if test.of == "paused":
        return [*match, genex("lookup", {"set": PAUSED, "sreg": register})]
    if test.mask:
        by = {"len": size, "mask": data_of(test.mask), "xor": data_of(bytes(size))}
        match.append(genex("bitwise", {"sreg": register, "dreg": register, **by}))
    equal = {"sreg": register, "op": nf.Cmp.NFT_CMP_EQ, "data": data_of(test.value)}
    return [*match, genex("cmp", equal)]


def data_of(value: bytes) -> dict[str, Any]:
    """Return a value as an attribute of an expression."""
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _command(nft: Any, message: Any, verb: str, number: int, attributes: dict[str, Any]) -> None:
    # NFTables.sets() raises TypeError after it has done its work (pyroute2 0.9.7).
    nft._command(message, {verb: number}, verb, dict(attributes))
