"""`overlay-vpn keygen`: a new host key for a server."""

from __future__ import annotations

from pathlib import Path

import click

from vpn.config.xdg import IDENTITY
from vpn.errors import ConfigurationError


@click.command("keygen")
@click.argument("path", type=click.Path(path_type=Path), default=IDENTITY)
def command(path: Path) -> None:
    """Generate an Ed25519 host key at PATH; an existing file is never overwritten."""
    from vpn import identity

    if path == IDENTITY:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot create {path.parent}: {error.strerror}; give another PATH for the key"
            ) from error
    made = identity.generate(path)
    click.echo(f"{path}\n{made.fingerprint}")
