"""Which channels a login may have, services that judge each destination themselves included."""

from __future__ import annotations

import pytest

from vpn.protocol.services import ECHO, RESOLVER
from vpn.ssh.login.grant import EVERYTHING, Grant
from vpn.ssh.login.login import Login

LIMITED = Grant(permit_open=frozenset({("192.0.2.1", 443)}))
NOTHING = Grant(may_forward=False)


@pytest.mark.parametrize(
    ("grant", "destination", "refusal"),
    [
        (EVERYTHING, ("192.0.2.9", 80), None),
        (EVERYTHING, ECHO, None),
        (LIMITED, ("192.0.2.1", 443), None),
        (LIMITED, ("192.0.2.1", 80), "permitopen"),
        (LIMITED, RESOLVER, "permitopen"),
        (LIMITED, ECHO, None),
        (LIMITED, ("ECHO.overlay-vpn.internal.", 7), None),
        (LIMITED, (ECHO[0], 8), "permitopen"),
        (NOTHING, ECHO, "port-forwarding"),
    ],
)
def test_channel_is_refused_unless_the_service_judges_itself(
    grant: Grant, destination: tuple[str, int], refusal: str | None
) -> None:
    assert Login(grant).refusal(*destination) == refusal
