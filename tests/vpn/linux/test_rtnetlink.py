"""What the kernel says about the loopback device, which there is everywhere."""

from __future__ import annotations

import pytest

from vpn.linux import rtnetlink
from vpn.linux.routing import Packet


def test_loopback_address_is_local() -> None:
    found = rtnetlink.route_of(Packet("127.0.0.1", 80))
    assert (found.kind, found.device, found.source) == ("local", "lo", "127.0.0.1")


def test_question_that_the_kernel_does_not_take_is_an_error() -> None:
    with pytest.raises(OSError):
        rtnetlink.route_of(Packet("127.0.0.1", 80, protocol=255))


@pytest.mark.parametrize("family", [4, 6])
def test_rules_are_in_their_order_and_lead_to_the_main_table(family: int) -> None:
    rules = rtnetlink.rules(family)
    assert [rule.priority for rule in rules] == sorted(rule.priority for rule in rules)
    assert 254 in [rule.table for rule in rules]
