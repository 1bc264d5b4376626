"""Tests of a small project that talks to servers: as its own developers would write them."""

from __future__ import annotations

import os
import socket
from urllib.request import urlopen

import pytest


@pytest.mark.parametrize("number", range(4))
def test_client_gets_the_page(number: int) -> None:
    with urlopen("http://www.example.com/", timeout=10) as page:
        assert page.read() == b"hello from the lab\n"


def test_client_is_told_that_a_name_does_not_exist() -> None:
    with pytest.raises(socket.gaierror):
        socket.create_connection(("nothing.example.com", 80), timeout=10)


def test_run_is_in_a_network_of_its_own() -> None:
    assert os.environ["OVERLAY_VPN_ID"]
    assert {name for _, name in socket.if_nameindex()} == {"lo", "ovpn0"}
