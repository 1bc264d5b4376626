"""A connector makes sessions with one server, and remembers the key that it has accepted."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vpn.client.session import connector as module
from vpn.client.session.connector import ServerConnector, credentials_for, target_of
from vpn.config.settings import SessionSettings
from vpn.config.target import parse_target
from vpn.ssh.session.client import Credentials
from vpn.transport.base import PlainSockets

SETTINGS = SessionSettings(target=parse_target("alice@vpn.example:4422"), datagrams=True)


def test_second_session_is_of_the_login_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[tuple[Any, ...]] = []

    async def connect(transport: Any, dialing: Any, login: Any) -> object:
        tries.append((transport, dialing, login.name))
        return f"session {len(tries)}"

    def login(name: str) -> Any:
        return SimpleNamespace(
            name=name,
            host_keys=SimpleNamespace(check_peer=None),
            after=lambda session: login(f"after {session}"),
        )

    async def resolve(address: object, kind: socket.SocketKind) -> Any:
        raise AssertionError("nobody resolves here")

    monkeypatch.setattr(module.ssh, "connect", connect)
    monkeypatch.setattr(module.registry, "load", lambda name: f"transport {name}")
    sockets = PlainSockets()
    connector = ServerConnector(cast(Credentials, login("first")), SETTINGS, sockets, resolve)
    for number in (1, 2):
        assert cast(str, asyncio.run(connector.connect())) == f"session {number}"
    assert [one[2] for one in tries] == ["first", "after session 1"]
    transport, dialing, _ = tries[0]
    assert (transport, dialing.address) == ("transport quic", SETTINGS.target.address)  # type: ignore[union-attr]
    assert (dialing.sockets, dialing.resolve, dialing.datagrams) == (sockets, resolve, True)
    asyncio.run(connector.close())


@pytest.mark.parametrize(
    ("identities", "expected"),
    [((), None), (("~/key", "/other"), (Path("/home/alice/key"), Path("/other")))],
)
def test_login_is_that_of_the_settings(
    identities: tuple[str, ...], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("HOME", "/home/alice")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        module.known_hosts, "policy_for", lambda address, **how: asked.update(how) or "policy"
    )
    settings = SessionSettings(
        target=SETTINGS.target,
        identities=tuple(map(Path, identities)),
        host_key="SHA256:x",
        accept_new=True,
    )
    login = credentials_for(settings)
    assert (login.user, login.agent_path, login.identities) == ("alice", "/run/agent", expected)
    assert (login.host_keys, asked) == ("policy", {"pin": "SHA256:x", "accept_new": True})


def test_embedded_server_is_no_target() -> None:
    with pytest.raises(ValueError, match="embedded"):
        target_of(SessionSettings())
