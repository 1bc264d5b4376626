import asyncio

import pytest

from vpn.protocol.failure import Failure, OpenFailed
from vpn.protocol.services import RESOLVER
from vpn.server.services.table import protocol_for
from vpn.ssh.login.grant import EVERYTHING
from vpn.ssh.login.login import Login

LOGIN = Login(EVERYTHING)


def test_service_of_the_table_is_given() -> None:
    protocol = asyncio.Protocol()
    handlers = {RESOLVER: lambda login: protocol if login is LOGIN else asyncio.Protocol()}
    assert protocol_for(handlers, LOGIN, RESOLVER[0].upper(), 53) is protocol


@pytest.mark.parametrize(("host", "port"), [("other.overlay-vpn.internal", 53), (RESOLVER[0], 80)])
def test_what_is_not_in_the_table_is_refused(host: str, port: int) -> None:
    with pytest.raises(OpenFailed) as failed:
        protocol_for({RESOLVER: lambda _: asyncio.Protocol()}, LOGIN, host, port)
    assert (failed.value.failure, failed.value.detail) == (Failure.POLICY, "reserved")
