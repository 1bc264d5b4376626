"""Under which name an answer comes."""

from __future__ import annotations

import pytest

from vpn.server.services import udp_peers as module
from vpn.server.services.udp_peers import Peers

HERE = "192.0.2.1"


@pytest.fixture
def peers() -> Peers:
    return Peers()


def test_address_that_was_sent_to_answers_as_itself(peers: Peers) -> None:
    peers.on_sent(HERE, HERE, 53)
    assert peers.host_of(HERE, 53) == HERE


def test_address_that_was_not_sent_to_answers_as_itself(peers: Peers) -> None:
    assert peers.host_of(HERE, 53) == HERE


def test_name_that_was_sent_to_answers_as_the_name_on_any_port(peers: Peers) -> None:
    peers.on_sent("www.example.com", HERE, 69)
    assert peers.host_of(HERE, 69) == "www.example.com"
    assert peers.host_of(HERE, 40000) == "www.example.com"
    assert peers.host_of("192.0.2.2", 69) == "192.0.2.2"


def test_two_names_of_an_address_are_told_apart_by_the_port(peers: Peers) -> None:
    peers.on_sent("a.example.com", HERE, 1)
    peers.on_sent("b.example.com", HERE, 2)
    assert peers.host_of(HERE, 1) == "a.example.com"
    assert peers.host_of(HERE, 2) == "b.example.com"


def test_form_that_was_used_last_is_the_one_that_answers(peers: Peers) -> None:
    peers.on_sent("a.example.com", HERE, 1)
    peers.on_sent("b.example.com", HERE, 1)
    assert peers.host_of(HERE, 1) == "b.example.com"
    peers.on_sent(HERE, HERE, 1)
    assert peers.host_of(HERE, 1) == HERE


def test_names_are_bounded_and_the_oldest_is_forgotten(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    for number in range(3):
        peers.on_sent(f"n{number}", f"192.0.2.{number}", 1)
    assert [peers.host_of(f"192.0.2.{number}", 1) for number in range(3)] == [
        "192.0.2.0",
        "n1",
        "n2",
    ]
