"""`overlay-vpn key show`: the public part of a host key."""

from __future__ import annotations

from pathlib import Path

import click

from vpn.cli.query_options import print_document, with_json
from vpn.config.xdg import IDENTITY


@click.group("key")
def command() -> None:
    """Show the public part of a host key."""


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path), default=IDENTITY)
@with_json
def show(path: Path, as_json: bool) -> None:
    """Print the node ID, fingerprint and known_hosts line of the host key at PATH."""
    from vpn import identity
    from vpn.config.target import QUIC_PORT

    key = identity.load(path)
    line = key.known_hosts_line("HOST", QUIC_PORT)
    if as_json:
        document = {
            "schema": 1,
            "node_id": key.node_id,
            "fingerprint": key.fingerprint,
            "public_key": key.openssh_public,
            "known_hosts": line,
        }
        print_document(document)
    else:
        click.echo(f"node id      {key.node_id}")
        click.echo(f"fingerprint  {key.fingerprint}")
        click.echo(f"known_hosts  {line}")
