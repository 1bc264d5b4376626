"""`overlay-vpn enter`: another command in the network of a run."""

from __future__ import annotations

import click

from vpn.cli.run import RunCommand
from vpn.client import run_command
from vpn.control import runs
from vpn.errors import UsageError


@click.command("enter", cls=RunCommand)
@click.argument("run_id", metavar="ID")
@click.pass_context
def command(context: click.Context, run_id: str) -> int:
    """Run CMD in the network of the run ID; see 'overlay-vpn list'.

    CMD ends with that run. The exit status is that of CMD; 125 if it was not started.
    """
    words: tuple[str, ...] = context.meta.get("command", ())
    if not words:
        raise UsageError("no command was given; write it after --, as in: enter ID -- CMD")
    spaces = runs.namespaces(run_id)
    return run_command.run(words, spaces, {"OVERLAY_VPN_ID": run_id})
