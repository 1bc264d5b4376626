"""The connector of a client: makes its first session, and those that replace a lost one."""

from __future__ import annotations

import os
from typing import Protocol

from vpn.config.settings import SessionSettings
from vpn.config.target import Target
from vpn.ssh.session import client as ssh
from vpn.ssh.session.client import Credentials, Session
from vpn.ssh.trust import known_hosts
from vpn.transport import registry
from vpn.transport.base import Dialing, OuterSockets, Resolve


class Connector(Protocol):
    """Makes sessions with one server."""

    async def connect(self) -> Session:
        """Return a new session. Raises OverlayError; cancelled, it leaves nothing behind."""
        ...

    async def close(self) -> None:
        """Close what outlives a session."""
        ...


class ServerConnector:
    """Connects over a transport; only the host key accepted first is accepted later."""

    def __init__(
        self,
        login: Credentials,
        settings: SessionSettings,
        sockets: OuterSockets,
        resolve: Resolve | None = None,
    ) -> None:
        """`sockets` and `resolve` are those of `vpn.transport.base.Dialing`."""
        self._login = login
        self._target = target_of(settings)
        self._datagrams = settings.datagrams
        self._sockets = sockets
        self._resolve = resolve

    async def connect(self) -> Session:
        """Return a new session on a new stream. Raises OverlayError."""
        transport = registry.load(self._target.transport)
        dialing = Dialing(
            self._target.address,
            self._sockets,
            resolve=self._resolve,
            datagrams=self._datagrams,
        )
        session = await ssh.connect(transport, dialing, self._login)
        self._login = self._login.after(session)
        return session

    async def close(self) -> None:
        """Do nothing: a session closes its own stream."""


def credentials_for(settings: SessionSettings) -> Credentials:
    """Return how to log in to the target of these settings; reads known_hosts.

    Raises ConfigurationError, UsageError.
    """
    target = target_of(settings)
    host_keys = known_hosts.policy_for(
        target.address, pin=settings.host_key, accept_new=settings.accept_new
    )
    return Credentials(
        user=target.user,
        host_keys=host_keys,
        agent_path=os.environ.get("SSH_AUTH_SOCK"),
        identities=tuple(path.expanduser() for path in settings.identities) or None,
    )


def target_of(settings: SessionSettings) -> Target:
    """Return the target of settings that name one. Raises ValueError for the embedded server."""
    if settings.target is None:
        raise ValueError("an embedded server is no target")
    return settings.target
