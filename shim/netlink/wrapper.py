"""The parts of netlink(7) that rules and links share: families, errors, sockets, matches."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nftsocket as nf
from pyroute2.nftables.expressions import genex

from shim.protocol.netfilter import PAUSED, Test

NETLINK_NETFILTER: Final = 12
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def as_oserror(*accepted: int) -> Iterator[None]:
    """Raise a refusal of the kernel as OSError, except those with an errno that is `accepted`."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in accepted:
            raise OSError(error.code, os.strerror(error.code)) from error


def adopt(fd: int, protocol: int) -> socket.socket:
    """Return a copy of a netlink socket as pyroute2 wants it: SOCK_DGRAM (netlink(7): the same)."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, protocol, os.dup(fd))


def match_of(test: Test) -> list[Any]:
    """Return the expressions of a test: load, mask, compare (linux/netfilter/nf_tables.h)."""
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
