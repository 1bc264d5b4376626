import pytest

from vpn.errors import UsageError
from vpn.transport import registry
from vpn.transport.tcp import TcpTransport


def test_installed_transport_is_made_anew_each_time() -> None:
    first, second = registry.load("tcp"), registry.load("tcp")
    assert type(first) is type(second) is TcpTransport
    assert first is not second


def test_unknown_transport_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no transport 'carrier-pigeon'; .*: memory, quic, tcp$"):
        registry.load("carrier-pigeon")
