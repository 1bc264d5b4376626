"""The keys of both sides of a login: a user's, in files, and the host key of an identity."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncssh.public_key import (
    KeyImportError,
    SSHKey,
    SSHKeyPair,
    import_private_key,
    load_keypairs,
)

from vpn.errors import ConfigurationError
from vpn.identity import Identity
from vpn.linux.secret_files import is_open_to_others

DEFAULT_FILES = tuple(Path("~/.ssh") / name for name in ("id_ed25519", "id_ecdsa", "id_rsa"))


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The usable keys of some files, with their certificates, and how many were encrypted."""

    pairs: tuple[SSHKeyPair, ...]
    encrypted: int = 0


def of_identity(identity: Identity) -> SSHKey:
    """Return the key of a server as asyncssh takes a host key."""
    return import_private_key(identity.openssh_private())


def of_key(key: SSHKey) -> KeyFiles:
    """Return one key that is in no file."""
    return KeyFiles(tuple(load_keypairs(key)))


def load_named(paths: Iterable[Path]) -> KeyFiles:
    """Load the identity files a user named. Raises ConfigurationError for any it cannot use."""
    pairs: list[SSHKeyPair] = []
    for path in paths:
        try:
            found = _load(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigurationError(f"cannot use the key {path}: {reason}") from error
        if not found:
            raise ConfigurationError(
                f"the key {path} is encrypted; add it to the agent with `ssh-add {path}` and do "
                "not name it"
            )
        pairs += found
    return KeyFiles(tuple(pairs))


def load_default(paths: Iterable[Path] = DEFAULT_FILES) -> KeyFiles:
    """Load the user's own keys; those that cannot be used are passed over, as ssh(1) does."""
    pairs: list[SSHKeyPair] = []
    encrypted = 0
    for path in paths:
        try:
            found = _load(path)
        except (OSError, ValueError):
            continue
        encrypted += not found
        pairs += found
    return KeyFiles(tuple(pairs), encrypted)


def _load(path: Path) -> Sequence[SSHKeyPair]:
    """Return a key with and without its certificate; nothing if it is encrypted."""
    path = path.expanduser()
    if is_open_to_others(os.stat(path), os.geteuid()):
        raise ValueError(f"it can be read by others; run `chmod 600 {path}`")
    try:
        return load_keypairs(str(path), ignore_encrypted=True)
    except KeyImportError:
        raise ValueError("it is not a private key of a known format") from None
