"""The changes of the network that the monitor makes and undoes, as data: rules, a route, a filter.

They are what the journal records; their tags are those of its lines.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Family = Literal[4, 6]

TABLE: Final = 7200
"""The routing table of our own: a default route into the capture TUN, for both families."""


class KillSwitch(msgspec.Struct, frozen=True, tag="guard"):
    """The filter of `shim.launcher.kill_switch`, in nftables tables of this name.

    `lan` stays reachable.
    """

    name: str
    lan: bool


class Unreachable(msgspec.Struct, frozen=True, tag="unreachable"):
    """The last route of `TABLE`: packets with no route through the tunnel are unreachable."""

    family: Family


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rule"):
    """One rule of ip-rule(8): looks into `table`, or goes to priority `goto`, or does nothing."""

    family: Family
    priority: int
    table: int = 0
    goto: int = 0
    source: str = ""
    destination: str = ""
    mark: int = 0
    incoming: str = ""
    protocol: int = 0
    port: int = 0
    source_port: int = 0
    without_default: bool = False


Change = KillSwitch | Unreachable | Rule
"""A change of the network. Making one that is there already is an error: it is not ours."""
