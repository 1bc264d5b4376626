"""The keys of both sides of a login."""

from __future__ import annotations

import asyncssh

from vpn.identity import Identity
from vpn.ssh.login import keys


def test_identity_of_a_server_is_its_host_key() -> None:
    identity = Identity(bytes(range(32)))
    key = keys.of_identity(identity)
    assert isinstance(key, asyncssh.SSHKey)
    assert key.get_fingerprint() == identity.fingerprint
