"""A server with no server anywhere: ours, in this process, over the memory transport.

Nothing is weaker for it: the session logs in with a key, and knows the server by its key. Both
keys are made for this one session and never leave the process.
"""

from __future__ import annotations

import os
from typing import Final

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
    """The only key that may log in."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._keys = parse(key.export_public_key().decode())

    def read(self) -> AuthorizedKeys:
        """Return it."""
        return self._keys


async def connect() -> tuple[ssh.Session, Server]:
    """Start a server and return a session with it. Raises OverlayError."""
    seed = os.urandom(32)
    key = asyncssh.generate_private_key("ssh-ed25519")
    transport = MemoryTransport({})
    server = await Server.start(transport, Listening(_ADDRESS, seed), _OneKey(key))
    pin = fingerprint_of(Identity(seed).public)
    host_keys = HostKeys(_ADDRESS.host, _ADDRESS.host, pin=pin)
    login = ssh.Login("embedded", host_keys, identities=key)
    dialing = Dialing(_ADDRESS, PlainSockets(), host_keys.check_peer)
    try:
        return await ssh.connect(transport, dialing, login), server
    except BaseException:
        await server.close()
        raise
