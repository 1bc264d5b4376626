"""`overlay-vpn list`: the runs of this user."""

from __future__ import annotations

import shlex
import time

import click

from vpn.cli.query_options import print_document, with_json
from vpn.control import runs


@click.command("list")
@with_json
def command(as_json: bool) -> None:
    """List your runs, oldest first: ID, PID, age in seconds, target, command."""
    found = runs.all_runs()
    if as_json:
        print_document({"schema": 1, "runs": found})
        return
    for run in found:
        age = int(time.time() - run.started)
        click.echo(f"{run.id}  {run.pid:>7}  {age:>6}  {run.target}  {shlex.join(run.command)}")
