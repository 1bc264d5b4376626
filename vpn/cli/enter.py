"""`overlay-vpn enter`: another command in the network of a run."""

from __future__ import annotations

import click

from vpn.cli.run import RunCommand
from vpn.client import run_command
from vpn.errors import UsageError


@click.command("enter", cls=RunCommand)
@click.argument("run_id", metavar="ID")
@click.pass_context
def command(context: click.Context, run_id: str) -> int:
    """Run CMD in the network of the run ID, as 'overlay-vpn list' names it.

    It ends with that run. The exit status is the command's; 125 if it was not started.
    """
    from vpn.control import runs

    words: tuple[str, ...] = context.meta.get("command", ())
    if not words:
        raise UsageError("there is no command; write it behind --, as in: enter ID -- CMD")
    spaces = runs.namespaces(run_id)
    return run_command.run(words, spaces, {"OVERLAY_VPN_ID": run_id})
