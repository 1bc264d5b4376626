"""`overlay-vpn keygen`: make the key that a server is known by."""

from __future__ import annotations

from pathlib import Path

import click

from vpn.config.paths import IDENTITY
from vpn.errors import ConfigurationError


@click.command("keygen")
@click.argument("path", type=click.Path(path_type=Path), default=IDENTITY)
def command(path: Path) -> None:
    """Make a new Ed25519 key at PATH. An existing one is never touched."""
    from vpn import identity

    if path == IDENTITY:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot make {path.parent}: {error.strerror}; name another place for the key"
            ) from error
    made = identity.generate(path)
    click.echo(f"{path}\n{made.fingerprint}")
