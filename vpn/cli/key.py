"""`overlay-vpn key show`: what others need to know of a key."""

from __future__ import annotations

from pathlib import Path

import click

from vpn.config.paths import IDENTITY


@click.group("key")
def command() -> None:
    """Look at a key."""


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path), default=IDENTITY)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(path: Path, as_json: bool) -> None:
    """Print the node id, fingerprint and known_hosts line of the key at PATH."""
    from vpn import identity
    from vpn.config.target import QUIC_PORT

    key = identity.load(path)
    line = key.known_hosts_line("HOST", QUIC_PORT)
    if as_json:
        import msgspec

        document = {
            "schema": 1,
            "node_id": key.node_id,
            "fingerprint": key.fingerprint,
            "public_key": key.openssh_public,
            "known_hosts": line,
        }
        click.echo(msgspec.json.encode(document).decode())
    else:
        click.echo(f"node id      {key.node_id}")
        click.echo(f"fingerprint  {key.fingerprint}")
        click.echo(f"known_hosts  {line}")
