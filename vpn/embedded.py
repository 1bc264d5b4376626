"""A server inside the process of its client, reached over the memory transport.

Nothing is weaker for it: the session logs in with a key, and knows the server by its key. Both
keys are generated for this one session and never leave the process.
"""

from __future__ import annotations

import os
from typing import Final

from vpn.errors import OverlayError
from vpn.identity import Identity, fingerprint_of
from vpn.server.app import Server
from vpn.ssh import asyncssh
from vpn.ssh.login.authorized_keys import AuthorizedKeys
from vpn.ssh.login.authorized_parser import parse
from vpn.ssh.session import client as ssh
from vpn.ssh.trust.host_keys import HostKeys
from vpn.transport.base import Address, Dialing, Listening, PlainSockets
from vpn.transport.memory import MemoryTransport

_ADDRESS: Final = Address("embedded", 1)


class _OneKey:
    """The authorized keys of the server: the client's, alone."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._keys = parse(key.export_public_key().decode())

    def read(self) -> AuthorizedKeys:
        """Return the key."""
        return self._keys


class EmbeddedConnector:
    """A server of this process and the one session with it; a `Connector`."""

    def __init__(self) -> None:
        self._server: Server | None = None

    async def connect(self) -> ssh.Session:
        """Start the server and return the session. Raises OverlayError.

        There is no second session: no network lies between the two ends, so whatever has ended the
        first one would end the next one, too.
        """
        if self._server is not None:
            raise OverlayError("the embedded server has ended")
        seed = os.urandom(32)
        key = asyncssh.generate_private_key("ssh-ed25519")
        transport = MemoryTransport({})
        self._server = await Server.start(transport, Listening(_ADDRESS, seed), _OneKey(key))
        pin = fingerprint_of(Identity(seed).public)
        host_keys = HostKeys(_ADDRESS.host, _ADDRESS.host, pin=pin)
        login = ssh.Credentials("embedded", host_keys, identities=key)
        dialing = Dialing(_ADDRESS, PlainSockets())
        return await ssh.connect(transport, dialing, login)

    async def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            await self._server.close()
