"""Reserved names, however they are spelled."""

from __future__ import annotations

import pytest

from vpn.protocol.services import is_reserved


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("resolver.overlay-vpn.internal", True),
        ("RESOLVER.Overlay-VPN.internal.", True),
        ("a.b.overlay-vpn.internal", True),
        ("overlay-vpn.internal", True),
        ("notoverlay-vpn.internal", False),
        ("overlay-vpn.internal.example", False),
        ("192.0.2.1", False),
        ("", False),
    ],
)
def test_reserved_names(host: str, is_ours: bool) -> None:
    assert is_reserved(host) is is_ours
