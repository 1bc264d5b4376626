"""`overlay-vpn list`: the commands that run in networks of their own."""

from __future__ import annotations

import shlex
import time

import click


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """List the runs of this user: id, process, age in seconds, target, command."""
    from vpn.control import runs as runtime

    runs = runtime.all_runs()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"schema": 1, "runs": runs}).decode())
        return
    for run in runs:
        age = int(time.time() - run.started)
        click.echo(f"{run.id}  {run.pid:>7}  {age:>6}  {run.target}  {shlex.join(run.command)}")
