"""What is changed about asyncssh's connections is really in its way: a new release may differ."""

from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_IGNORE, MSG_KEXINIT, MSG_NEWKEYS
from ssh_lab import LOOPBACK, Keys, destination, echo, flow_to, session_of, session_with_sshd
from transport_lab import played

from vpn.ssh.session.pressure import Pressure


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The types of all SSH messages which reach asyncssh's own `send_packet`."""
    types: list[int] = []
    original = SSHConnection.send_packet

    def send_packet(self: Any, pkttype: int, *args: Any, **options: Any) -> None:
        types.append(pkttype)
        original(self, pkttype, *args, **options)

    monkeypatch.setattr(SSHConnection, "send_packet", send_packet)
    return types


@played
async def test_no_chaff_is_sent(keys: Keys, sent: list[int]) -> None:
    async with session_of(keys) as session, destination(echo) as port:
        (await session.open(LOOPBACK, port)).abort()
    assert MSG_CHANNEL_OPEN in sent
    assert MSG_IGNORE not in sent


@played
async def test_each_key_exchange_holds_the_flows_back(
    keys: Keys, start_sshd: Callable, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed: list[bool] = []
    original = Pressure.on_key_exchange

    def on_key_exchange(self: Pressure, is_running: bool) -> None:
        noticed.append(is_running)
        original(self, is_running)

    monkeypatch.setattr(Pressure, "on_key_exchange", on_key_exchange)
    sshd = start_sshd("RekeyLimit 1M")
    async with session_with_sshd(keys, sshd) as session, destination(echo) as port:
        reader, writer, _ = await flow_to(session, port)
        writer.write(bytes(4 << 20))
        await reader.readexactly(4 << 20)
        writer.close()
    assert len(noticed) >= 4
    assert noticed == [True, False] * (len(noticed) // 2)
    assert [each for each in sent if each in (MSG_KEXINIT, MSG_NEWKEYS)] == [
        MSG_KEXINIT if is_running else MSG_NEWKEYS for is_running in noticed
    ]
