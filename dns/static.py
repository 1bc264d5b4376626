"""Names to which the user has given an address, and their reverse names.

The addresses in answers are virtual like those of all names: the given address is where connections
to the name go. So there are both A and AAAA records, and none of other types.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from dns.codes import IN, RRType
from dns.disposition import ADDRESSES
from dns.names import from_text, to_wire
from dns.records import Record
from dns.upstream import Answer, Outcome

TTL_S = 1


class StaticNames:
    """Answers for a few names. `addresses` are text, by name in lower case."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._names = frozenset(addresses)
        self._by_reverse: dict[str, str] = {}
        for name, address in addresses.items():
            # The first of several names of an address is its reverse name, as in hosts(5).
            self._by_reverse.setdefault(ip_address(address).reverse_pointer, name)

    def answer(self, name: str, rtype: int) -> Answer | None:
        """Return the answer for a name in lower case, None if it is not a static name."""
        if name in self._names:
            return Answer(Outcome.FOUND if rtype in ADDRESSES else Outcome.NO_DATA)
        target = self._by_reverse.get(name) if rtype == RRType.PTR else None
        if target is None:
            return None
        owner, data = to_wire(from_text(name)), to_wire(from_text(target))
        return Answer(Outcome.FOUND, TTL_S, (Record(owner, RRType.PTR, IN, TTL_S, data),))
