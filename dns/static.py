"""Names that the user has given an address, and the way back.

Their addresses are virtual like those of all names: what is given is where a connection to the
name goes. So A and AAAA are both there, and other types are not.
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
    """Answers about a few names. `addresses` are text, by name in lower case."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._names = frozenset(addresses)
        self._by_reverse: dict[str, str] = {}
        for name, address in addresses.items():
            # The first name of an address is its name, as in hosts(5).
            self._by_reverse.setdefault(ip_address(address).reverse_pointer, name)

    def answer(self, name: str, rtype: int) -> Answer | None:
        """Return the answer about a name in lower case, None where the name is not known here."""
        if name in self._names:
            return Answer(Outcome.FOUND if rtype in ADDRESSES else Outcome.NO_DATA)
        target = self._by_reverse.get(name) if rtype == RRType.PTR else None
        if target is None:
            return None
        owner, data = to_wire(from_text(name)), to_wire(from_text(target))
        return Answer(Outcome.FOUND, TTL_S, (Record(owner, RRType.PTR, IN, TTL_S, data),))
