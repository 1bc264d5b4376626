"""Names that the user has given: addresses, nothing else, and the way back."""

from __future__ import annotations

import pytest

from dns.names import from_text, to_wire
from dns.static import StaticNames
from dns.upstream import Answer, Outcome

A, PTR, MX, AAAA = 1, 12, 15, 28
NAMES = StaticNames({"db.example": "10.0.0.5", "twin.example": "10.0.0.5", "six": "2001:db8::6"})


@pytest.mark.parametrize("rtype", [A, AAAA])
def test_given_name_has_addresses(rtype: int) -> None:
    assert NAMES.answer("db.example", rtype) == Answer(Outcome.FOUND)


def test_given_name_has_nothing_else() -> None:
    assert NAMES.answer("db.example", MX) == Answer(Outcome.NO_DATA)


@pytest.mark.parametrize("name", ["example", "www.db.example", "5.0.0.10.in-addr.arpa"])
def test_other_name_is_not_known(name: str) -> None:
    assert NAMES.answer(name, A) is None


@pytest.mark.parametrize(
    ("reverse", "name"),
    [
        ("5.0.0.10.in-addr.arpa", "db.example"),
        ("6" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa", "six"),
    ],
)
def test_address_leads_back_to_the_first_name(reverse: str, name: str) -> None:
    got = NAMES.answer(reverse, PTR)
    assert got is not None
    ((owner, rtype, _, ttl_s, data),) = got.records
    assert (owner, rtype, ttl_s) == (to_wire(from_text(reverse)), PTR, 1)
    assert data == to_wire(from_text(name))


def test_other_address_is_not_known() -> None:
    assert NAMES.answer("6.0.0.10.in-addr.arpa", PTR) is None
    assert NAMES.answer("5.0.0.10.in-addr.arpa", A) is None
